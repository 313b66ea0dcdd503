"""Our results before the tools that others judge them with: none may find an error.

A validator's exit status or its "complete" says little: its lines are read, and what is let through is listed
here with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from models.contract import Card, Detection, Findings, Segment
from node.dicom.context import ResultContext
from node.dicom.encode import encode
from tests.unit.node.dicom.conftest import (
    LUNG_CARD,
    NODULE_CARD,
    context_of,
    ct_series,
    nodules,
    to_patient,
    two_lungs,
)  # fmt: skip

PIXELMED = Path("/usr/share/java/pixelmed.jar")
PIXELMED_LIMITS = [f"-Djdk.xml.xpath{what}=0" for what in ("TotalOpLimit", "ExprOpLimit", "ExprGrpLimit")]

#: What a tool says about our results that is no fault of theirs: (tool, part of the line) and why.
ALLOWED = {
    ("dciodvfy", "Retired Person Name form"): "the name is the source's, and is copied as it stands",
    ("dciodvfy", "</DeidentificationMethod(0012,0063)[1]> - Value invalid"): "too long in one source",
    ("dciodvfy", "needed to build DICOMDIR"): "one source has no Patient ID and no Study ID; empty is legal",
    ("dciodvfy", "Unrecognized defined term = <SECTRA>"): "a private code of the source's procedure",
    ("dciodvfy", "Unrecognized defined term = <PARTIALBODY>"): "the body part as the source says it",
    ("dsrdump", "The VR checker does not support this Specific Character Set: ISO_IR 192"): "a limit of the tool",
    ("dcentvfy", "Different information entities for attribute - Element=<AccessionNumber>"): (
        "the tool files a report's accession number under the series, whoever wrote it; the values are equal"
    ),
}

#: A real source has a text that is too long for its VR; that is reported on reading, and copied as it stands.
pytestmark = pytest.mark.filterwarnings("ignore:The value length:UserWarning")

Findings_ = Callable[[tuple[Dataset, ...]], Findings]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One encoded set on disk beside its sources."""

    context: ResultContext
    findings: Findings
    sources: tuple[Path, ...]
    results: tuple[Path, ...]
    tilted: bool = False

    def of(self, role: str) -> Path:
        """Return the file of one role; skip where the set has none."""
        for path in self.results:
            if path.stem == role:
                return path
        pytest.skip(f"this set has no {role}")


def tool(name: str) -> str:
    """Return the path of a tool; without it the test skips on a laptop and fails in CI."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    return found or missing(name)


def missing(name: str) -> str:
    """Skip, or fail where CI promises all tools."""
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed")
    pytest.skip(f"{name} is not installed")


def said(*command: str | Path) -> list[str]:
    """Run a tool and return all lines that it prints; some print bytes in the source's character set."""
    ran = subprocess.run([str(part) for part in command], capture_output=True, timeout=120, check=False)
    return (ran.stdout + ran.stderr).decode("utf-8", "replace").splitlines()


def faults(name: str, lines: list[str], also: tuple[str, ...] = ()) -> list[str]:
    """Return the lines that name an error, or one of *also*, and are not on the list of what is let through."""
    allowed = [part for of, part in ALLOWED if of == name]
    bad = ("error", "exception", "abort", "fatal", "f: ", "e: ", *also)
    wrong = [line for line in lines if any(word in line.lower() for word in bad)]
    return [line for line in wrong if not any(part in line for part in allowed)]


def real(data: Path, folder: str) -> tuple[Dataset, ...]:
    """Return the headers of a real series, sorted along its normal."""
    headers = [dcmread(path, stop_before_pixels=True) for path in sorted((data / folder).glob("*.dcm"))]
    for header in headers:  # one series lost its UIDs when it was anonymised; no PACS would send it so
        header.SOPInstanceUID = header.SOPInstanceUID or header.file_meta.MediaStorageSOPInstanceUID
        header.SOPClassUID = header.SOPClassUID or header.file_meta.MediaStorageSOPClassUID
        header.StudyInstanceUID = header.StudyInstanceUID or "2.25.90"
        header.SeriesInstanceUID = header.SeriesInstanceUID or "2.25.91"
    normal = np.cross(headers[0].ImageOrientationPatient[:3], headers[0].ImageOrientationPatient[3:])
    return tuple(sorted(headers, key=lambda h: float(np.dot(normal, np.array(h.ImagePositionPatient, float)))))


def ellipsoid(sources: tuple[Dataset, ...], middle: tuple[float, ...], size: tuple[float, ...]) -> NDArray[np.bool_]:
    """Return a mask with one ellipsoid; middle and half axes are fractions of the grid."""
    grid = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    z, y, x = (np.arange(n).reshape([-1 if i == axis else 1 for i in range(3)]) for axis, n in enumerate(grid))
    parts = ((index + 0.5) / n - m for index, n, m in zip((z, y, x), grid, middle, strict=True))
    squares = [(part / half) ** 2 for part, half in zip(parts, size, strict=True)]
    return np.asarray(squares[0] + squares[1] + squares[2] < 1)


def made_up_lungs(sources: tuple[Dataset, ...]) -> Findings:
    """Two ellipsoids on any grid, each called what its side of the patient is."""
    low = ellipsoid(sources, (0.5, 0.5, 0.3), (0.45, 0.3, 0.15))
    high = ellipsoid(sources, (0.5, 0.45, 0.7), (0.45, 0.25, 0.12))
    right, left = (high, low) if sources[0].ImageOrientationPatient[0] < 0 else (low, high)
    return Findings(
        segments=(
            Segment(key="right-lung", mask=right, volume_ml=2150.4), Segment(key="left-lung", mask=left, volume_ml=1.9)
        )
    )  # fmt: skip


def made_up_nodule(sources: tuple[Dataset, ...]) -> Findings:
    """One ellipsoid somewhere."""
    mask = ellipsoid(sources, (0.4, 0.6, 0.3), (0.3, 0.05, 0.05))
    z, y, x = np.argwhere(mask).mean(axis=0)
    centre = to_patient(sources[round(z)], y, x)
    found = Detection(
        key="nodule", mask=mask, centre_mm=centre, diameter_mm=9.3, volume_ml=0.42, score=0.731, site="right-lung"
    )
    return Findings(detections=(found,))


SYNTHETIC: dict[str, Callable[[], tuple[Dataset, ...]]] = {
    "axial": ct_series,
    "oblique": lambda: ct_series(orientation=(0.96, 0.0, 0.28, 0.0, 1.0, 0.0)),
    "odd-width": lambda: ct_series(columns=23, rows=21),
    "gantry-tilt": lambda: tilted(ct_series()),
}
REAL = {
    "ct-liver-3slice-seg": "ct-liver-3slice-seg/dicom",
    "ct-nodule-partsolid-crop": "ct-nodule-partsolid-crop/dicom",
    "ct-abdomen-totalseg-dicom": "ct-abdomen-totalseg-dicom/dicom",
}
WHAT: dict[str, tuple[Findings_, Findings_, Card]] = {
    "lungs": (two_lungs, made_up_lungs, LUNG_CARD),
    "nodules": (nodules, made_up_nodule, NODULE_CARD),
    "nothing": (lambda _: Findings(), lambda _: Findings(), NODULE_CARD),
}


def tilted(sources: tuple[Dataset, ...]) -> tuple[Dataset, ...]:
    """Shear a series as a tilted gantry does: each slice a little lower in its own plane."""
    for index, source in enumerate(sources):
        left, posterior, superior = (float(mm) for mm in source.ImagePositionPatient)
        source.ImagePositionPatient = [left, posterior + 0.8 * index, superior]
    return sources


def kept(sources: tuple[Dataset, ...], findings: Findings, card: Card, folder: Path) -> Case:
    """Encode, pass the gate, and write sources and results to *folder*."""
    context = context_of(sources, card)
    objects = encode(findings, context)
    results = tuple(folder / f"{obj.role}.dcm" for obj in objects)
    for path, obj in zip(results, objects, strict=True):
        path.write_bytes(obj.data)
    written = tuple(folder / f"source-{index:03d}.dcm" for index in range(len(sources)))
    for path, source in zip(written, sources, strict=True):
        buffer = BytesIO()
        dcmwrite(buffer, source, enforce_file_format=True)
        path.write_bytes(buffer.getvalue())
    return Case(
        context=context, findings=findings, sources=written, results=results, tilted="gantry-tilt" in folder.name
    )


@pytest.fixture(scope="module", params=[(place, what) for place in (*SYNTHETIC, *REAL) for what in WHAT], ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each source with each kind of findings."""
    place, what = request.param
    synthetic, made_up, card = WHAT[what]
    if place in SYNTHETIC:
        sources, make = SYNTHETIC[place](), synthetic
    else:
        sources, make = real(request.getfixturevalue("data_dir"), REAL[place]), made_up
    return kept(sources, make(sources), card, tmp_path_factory.mktemp(f"{place}-{what}"))


def test_dciodvfy_finds_no_error(case: Case) -> None:
    """Every attribute is where its IOD wants it; of warnings there are none either."""
    for path in case.results:
        lines = said(tool("dciodvfy"), "-new", path)
        assert faults("dciodvfy", lines, also=("warning",)) == []


def test_dcentvfy_finds_results_and_sources_to_be_of_one_patient_and_study(case: Case) -> None:
    """Whatever differs between entities of the same name is printed."""
    lines = said(tool("dcentvfy"), *case.sources, *case.results)
    assert faults("dcentvfy", lines, also=("warning", "seg.dcm", "sr.dcm")) == []


def test_dsrdump_reads_the_report(case: Case) -> None:
    """Without an error or a warning, and with our words in it."""
    lines = said(tool("dsrdump"), "+Pl", case.of("sr"))
    assert faults("dsrdump", lines, also=("w: ",)) == []
    assert any("not for clinical use" in line for line in lines)


def test_tid1500reader_reads_all_groups(case: Case, tmp_path: Path) -> None:
    """dcmqi finds one volumetric group with its measurements for each region."""
    drawn = [*case.findings.segments, *case.findings.detections]
    if not drawn:
        pytest.skip("a report without measurements is none to this tool")
    out = tmp_path / "out.json"
    lines = said(tool("tid1500reader"), "--inputDICOM", case.of("sr"), "--outputMetadata", out)
    assert faults("tid1500reader", lines) == []
    groups = json.loads(out.read_text())["Measurements"]
    volumes = [group for group in groups if group.get("measurementItems")]
    assert [float(group["ReferencedSegment"]) for group in volumes] == [n + 1 for n in range(len(drawn))]
    assert len(volumes[0]["measurementItems"]) == (3 if case.findings.detections else 1)


def test_segimage2itkimage_finds_every_voxel(case: Case, tmp_path: Path) -> None:
    """dcmqi, which no line of ours shares, finds as many voxels around the same middle in the patient."""
    drawn: list[Segment | Detection] = [*case.findings.segments, *case.findings.detections]
    lines = said(
        tool("segimage2itkimage"), "--inputDICOM", case.of("seg"), "--outputDirectory", tmp_path, "-t", "nifti"
    )
    assert faults("segimage2itkimage", lines) == []
    for number, item in enumerate(drawn, start=1):
        image = nibabel.load(tmp_path / f"{number}.nii.gz")
        found = np.argwhere(np.asarray(image.dataobj) != 0)  # type: ignore[attr-defined]
        affine = image.affine  # type: ignore[attr-defined]
        middle = (affine @ np.append(found.mean(axis=0), 1.0))[:3] * (-1, -1, 1)  # RAS, as NIfTI has it, to LPS
        sources = case.context.sources
        wanted = np.mean([to_patient(sources[z], y, x) for z, y, x in np.argwhere(item.mask)], axis=0)
        assert len(found) == item.mask.sum()
        # The tool's volumes cannot be sheared: it drops the tilt (0.8 mm a slice here)
        assert middle == pytest.approx(wanted, abs=2.5 if case.tilted else 0.02)


@pytest.mark.slow
@pytest.mark.system
def test_pixelmed_finds_no_error_in_the_report(case: Case) -> None:
    """The check of IHE's AI Results profile: templates and context groups."""
    if not PIXELMED.is_file():
        missing("PixelMed")
    validator = "com.pixelmed.validate.DicomSRValidator"
    lines = said(tool("java"), *PIXELMED_LIMITS, "-cp", PIXELMED, validator, case.of("sr"))
    assert "Root Template Validation Complete" in lines
    wrong = [line for line in lines if line.startswith("Error")]
    if len(case.findings.detections) == 1:
        # A fault of the tool: of a report with one outline it holds *every* group against TID 1410, so that the
        # volumetric group is blamed for having no outline. With two outlines it does not.
        excused = [line for line in wrong if "within 1.9.2:" in line and "Missing conditional content item" in line]
        assert len(excused) == 2 and all("Template 1410" in line for line in excused)
        wrong = [line for line in wrong if line not in excused]
    assert wrong == []


@pytest.mark.parametrize("name", ["chrFren", "chrGerm", "chrGreek", "chrH31", "chrRuss", "chrX1"])
def test_names_in_any_script_pass_all_tools(data_dir: Path, tmp_path: Path, name: str) -> None:
    """Patient modules of real files in six character sets, on a synthetic series: bytes and tools agree."""
    patient = dcmread(data_dir / "charset-names" / f"{name}.dcm", stop_before_pixels=True)
    sources = ct_series()
    for source in sources:
        for keyword in ("SpecificCharacterSet", "PatientName", "PatientID", "PatientSex", "PatientBirthDate"):
            if keyword in patient:
                source[keyword] = patient[keyword]
        source.ReferringPhysicianName = ""
    done = kept(sources, two_lungs(sources), LUNG_CARD, tmp_path)
    raw = dcmread(data_dir / "charset-names" / f"{name}.dcm").get_item("PatientName").value
    for path in done.results:
        result = dcmread(path)
        assert result.PatientName == patient.PatientName
        assert result.SpecificCharacterSet == patient.SpecificCharacterSet
        assert bytes(dcmread(path).get_item("PatientName").value).rstrip(b" =") == bytes(raw).rstrip(b" =")
        assert faults("dciodvfy", said(tool("dciodvfy"), "-new", path)) == []
    assert faults("dcentvfy", said(tool("dcentvfy"), *done.sources, *done.results)) == []
