"""Secondary Captures and documents before the tools that others judge them with: none may find an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from models.contract import Findings
from node.dicom.context import Pictures, ResultContext, regions
from node.dicom.pdf import encode_pdf
from node.dicom.sc import encode_sc
from node.pictures import load_pictures, write_report
from tests.integration.test_validators import REAL, faults, real, said, tool
from tests.unit.node.dicom.conftest import NODULE_CARD, context_of, ct_series, nodules

#: A real source has a text that is too long for its VR; that is reported on reading, and copied as it stands.
pytestmark = pytest.mark.filterwarnings("ignore:The value length:UserWarning")

#: What dciodvfy says that is no fault: whether a body part that the source does not name is paired, nobody knows.
SIDE = "is only permitted to be empty when actually unknown"


def kept(findings: Findings, context: ResultContext, folder: Path) -> list[Path]:
    """Print a report, encode it and two pages, write all to *folder*."""
    for name in ("axial", "coronal", "sagittal"):
        Image.new("RGB", (768, 600), (9, 9, 9)).save(folder / f"{name}.png")
    write_report(folder, findings, context)
    pages = tuple(np.full((64, 64, 3), shade, np.uint8) for shade in (0, 200))
    pictures = Pictures(pages=pages, report=load_pictures(folder).report)
    drawn = regions(findings, context)
    made = [*encode_sc(pictures, drawn, context), encode_pdf(pictures, drawn, context)]
    return [written(dataset, folder / f"result-{number}.dcm") for number, dataset in enumerate(made)]


def written(dataset: Dataset, path: Path) -> Path:
    """Write one instance."""
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def check(paths: list[Path], sources: tuple[Dataset, ...], folder: Path) -> None:
    """Each result alone, then all beside their sources."""
    for path in paths:
        lines = [line for line in said(tool("dciodvfy"), "-new", path) if SIDE not in line]
        assert faults("dciodvfy", lines, also=("warning",)) == []
    images = [written(source, folder / f"source-{number}.dcm") for number, source in enumerate(sources)]
    lines = said(tool("dcentvfy"), *images, *paths)
    assert faults("dcentvfy", lines, also=("warning", "result-")) == []


@pytest.mark.parametrize("part", ["CHEST", "KNEE", "PARTLY", ""])
@pytest.mark.parametrize("side", ["", "L"])
def test_results_of_synthetic_sources_are_clean(part: str, side: str, tmp_path: Path) -> None:
    """Whatever the source says of the body part, side and all."""
    sources = ct_series()
    for source in sources:
        source.BodyPartExamined = part or None
        if side:
            source.Laterality = side
    paths = kept(nodules(sources), context_of(sources, NODULE_CARD), tmp_path)
    if part == "PARTLY":
        for path in paths:
            lines = [line for line in said(tool("dciodvfy"), "-new", path) if SIDE not in line]
            assert all("PARTLY" in line for line in faults("dciodvfy", lines, also=("warning",)))
        return
    check(paths, () if side else sources, tmp_path)  # a chest with a side is the source's fault, and told of it


@pytest.mark.parametrize("folder", list(REAL))
def test_results_of_real_sources_are_clean(folder: str, data_dir: Path, tmp_path: Path) -> None:
    """Nothing found, in files of several makers."""
    sources = real(data_dir, REAL[folder])
    check(kept(Findings(), context_of(sources, NODULE_CARD), tmp_path), sources, tmp_path)


@pytest.mark.parametrize("name", ["chrFren", "chrGerm", "chrGreek", "chrH31", "chrRuss", "chrX1"])
def test_names_in_any_script_keep_their_bytes(name: str, data_dir: Path, tmp_path: Path) -> None:
    """In pages' headers and in documents."""
    patient = dcmread(data_dir / "charset-names" / f"{name}.dcm", stop_before_pixels=True)
    sources = ct_series()
    for source in sources:
        for keyword in ("SpecificCharacterSet", "PatientName", "PatientID", "PatientSex", "PatientBirthDate"):
            if keyword in patient:
                source[keyword] = patient[keyword]
        source.ReferringPhysicianName = ""
    card = replace(NODULE_CARD, limits=("For research.",))
    paths = kept(nodules(sources), context_of(sources, card), tmp_path)
    raw = bytes(dcmread(data_dir / "charset-names" / f"{name}.dcm").get_item("PatientName").value)
    for path in paths:
        assert bytes(dcmread(path).get_item("PatientName").value).rstrip(b" =") == raw.rstrip(b" =")
    check(paths, sources, tmp_path)
