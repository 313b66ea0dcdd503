"""Seconds and memory to encode segmentations of 300 x 512 x 512 voxels, beside highdicom as it comes and dcmqi.

    python -m tests.benchmarks.encode

Each encoder runs in a fresh process, from masks in memory (dcmqi: from a compressed label file) to a DICOM file on
disk; its own start and reading of inputs are not counted, but for dcmqi, a program, they are. Medians of three. The
last line on stdout is one JSON object; `x` is their time over ours.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from models.contract import Code, Findings, Measures, Segment, SegmentKind
from node.dicom.context import regions
from node.dicom.encode import make_object
from node.dicom.seg import encode_segs
from node.dicom.segread import segments_on_frames
from node.dicom.sr import encode_sr
from node.domain.profile import Profile
from node.domain.result import ResultRole
from node.testing import synthetic_ct
from tests.unit.node.dicom.conftest import LUNG_CARD, context_of

SHAPE = (300, 512, 512)
COUNTS = (1, 20, 104)
ROUNDS = 3
ANATOMY = Code(value="123037004", scheme="SCT", meaning="Anatomical Structure")


def labels_of(count: int) -> NDArray[np.uint8]:
    """A label map (slices, rows, columns) of unequal ellipsoids that do not touch, on 30 to 200 slices each."""
    labels = np.zeros(SHAPE, np.uint8)
    side = int(np.ceil(np.sqrt(count)))
    cell = 512 // side
    generator = np.random.default_rng(count)
    for number in range(1, count + 1):
        row, column = divmod(number - 1, side)
        depth = int(generator.integers(15, 100))
        centre = (int(generator.integers(depth, 300 - depth + 1)), (row + 0.5) * cell, (column + 0.5) * cell)
        radii = (depth, cell * 0.45, cell * 0.36)
        z, y, x = np.ogrid[:300, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        place = (slice(None), slice(row * cell, (row + 1) * cell), slice(column * cell, (column + 1) * cell))
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radii, strict=True)) <= 1
        labels[place][inside] = number
    return labels


def card_kinds(count: int) -> tuple[SegmentKind, ...]:
    """One kind for each label."""
    return tuple(
        SegmentKind(
            key=f"part-{number}", label=f"Part {number}", category=ANATOMY, colour=(number * 2 % 256, 160, 90),
            type=Code(value="39607008", scheme="SCT", meaning="Lung"),
        )
        for number in range(1, count + 1)
    )  # fmt: skip


def headers() -> tuple[Dataset, ...]:
    """The sources, without pixels."""
    made = synthetic_ct(slices=300, rows=512, columns=512, spacing=(1.0, 0.7, 0.7))
    for source in made:
        del source.PixelData
    return tuple(made)


def run_ours(count: int, folder: Path) -> float:
    """Masks to file."""
    labels = labels_of(count)
    segments = tuple(
        Segment(key=f"part-{n}", mask=labels == n, volume_ml=1.0) for n in range(1, count + 1)
    )
    context = context_of(headers(), replace(LUNG_CARD, segments=card_kinds(count)))
    began = time.perf_counter()
    (seg,) = encode_segs(regions(Findings(segments=segments), context), context, Profile())
    (folder / "ours.dcm").write_bytes(make_object(ResultRole.SEG, seg.dataset).data)
    return time.perf_counter() - began


def run_highdicom(count: int, folder: Path) -> float:
    """The library as its manual shows it, from a label map."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    labels, sources = labels_of(count), list(headers())
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=n, segment_label=f"Part {n}", segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Lung, algorithm_type="AUTOMATIC",
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                name="bench", family=codes.DCM.ArtificialIntelligence, version="1"
            ),
        )
        for n in range(1, count + 1)
    ]  # fmt: skip
    began = time.perf_counter()
    seg = hd.seg.Segmentation(
        source_images=sources, pixel_array=labels, segmentation_type="BINARY", segment_descriptions=descriptions,
        series_instance_uid="2.25.1", series_number=2, sop_instance_uid="2.25.2", instance_number=1,
        manufacturer="m", manufacturer_model_name="m", software_versions="1", device_serial_number="1",
    )  # fmt: skip
    seg.save_as(folder / "highdicom.dcm")
    return time.perf_counter() - began


def run_sr(count: int, folder: Path) -> float:
    """A report on *count* findings of our encoder; its Segmentation is made before and not counted."""
    labels = labels_of(count)
    ends = ((1.0, 1.0), (2.0, 2.0))
    measures = Measures(
        volume_ml=1.0, long_mm=3.0, short_mm=2.0, long_ends=ends, short_ends=ends, slice=1, mean=1.0, deviation=1.0,
        least=0.0, greatest=2.0,
    )  # fmt: skip
    segments = tuple(
        Segment(key=f"part-{n}", mask=labels == n, volume_ml=1.0, measures=measures) for n in range(1, count + 1)
    )
    context = context_of(headers(), replace(LUNG_CARD, segments=card_kinds(count)))
    findings = Findings(segments=segments)
    drawn = regions(findings, context)
    segs = encode_segs(drawn, context, Profile())
    began = time.perf_counter()
    report = encode_sr(drawn, segs, findings, context, Profile())
    (folder / "sr.dcm").write_bytes(make_object(ResultRole.SR, report).data)
    return time.perf_counter() - began




def in_fresh_process(what: str, count: int, folder: Path) -> tuple[float, float]:
    """Seconds and peak MiB of one run."""
    line = [sys.executable, "-m", "tests.benchmarks.encode", what, str(count), str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    seconds, peak = json.loads(done.stdout)
    return float(seconds), float(peak)


def dcmqi(count: int, folder: Path) -> tuple[float, float]:
    """Seconds and peak MiB of dcmqi's program, from a compressed label file and a folder of images."""
    program = Path(sys.executable).with_name("itkimage2segimage")
    line = [
        str(program), "--inputImageList", str(folder / f"labels-{count}.nii.gz"), "--inputDICOMDirectory",
        str(folder / "ct"), "--outputDICOM", str(folder / "dcmqi.dcm"), "--inputMetadata",
        str(folder / f"meta-{count}.json"),
    ]  # fmt: skip
    began = time.perf_counter()
    with (folder / "dcmqi.log").open("wb") as log, subprocess.Popen(line, stdout=log, stderr=log) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError((folder / "dcmqi.log").read_text(errors="replace")[-2000:])
    return time.perf_counter() - began, used.ru_maxrss / 1024


def prepare(folder: Path) -> float:
    """Write what dcmqi reads; how long that takes is nobody's concern."""
    sources = synthetic_ct(slices=300, rows=512, columns=512, spacing=(1.0, 0.7, 0.7))
    (folder / "ct").mkdir()
    for number, source in enumerate(sources):
        source.save_as(folder / "ct" / f"{number:04d}.dcm", enforce_file_format=True)
    first = sources[0]
    affine = np.diag([-0.7, -0.7, 1.0, 1.0])  # NIfTI's axes are R, A, S
    affine[:3, 3] = np.array(first.ImagePositionPatient, float) * (-1, -1, 1)
    for count in COUNTS:
        image = nibabel.Nifti1Image(labels_of(count).T, affine)
        nibabel.save(image, folder / f"labels-{count}.nii.gz")
        (folder / f"meta-{count}.json").write_text(json.dumps(_metadata(count)))
    return 0.0


def _metadata(count: int) -> dict[str, Any]:
    def code(value: str, meaning: str) -> dict[str, str]:
        return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}

    segments = [
        {
            "labelID": n, "SegmentDescription": f"Part {n}", "SegmentLabel": f"Part {n}",
            "SegmentAlgorithmType": "AUTOMATIC", "SegmentAlgorithmName": "bench",
            "SegmentedPropertyCategoryCodeSequence": code("123037004", "Anatomical Structure"),
            "SegmentedPropertyTypeCodeSequence": code("39607008", "Lung"), "recommendedDisplayRGBValue": [1, 2, 3],
        }
        for n in range(1, count + 1)
    ]  # fmt: skip
    return {
        "ContentCreatorName": "Bench", "ClinicalTrialSeriesID": "1", "ClinicalTrialTimePointID": "1",
        "SeriesDescription": "bench", "SeriesNumber": "300", "InstanceNumber": "1", "BodyPartExamined": "CHEST",
        "segmentAttributes": [segments],
    }  # fmt: skip


def equal_content(folder: Path, count: int) -> bool:
    """Whether the three files hold the same voxels on the same positions under the same numbers."""
    labels = labels_of(count)
    expected = int(np.count_nonzero([(labels == n).any(axis=(1, 2)) for n in range(1, count + 1)]))
    for name in ("ours", "highdicom", "dcmqi"):
        seg = dcmread(folder / f"{name}.dcm")
        seen = 0
        for group, parts in segments_on_frames(seg):
            height = float(group.PlanePositionSequence[0].ImagePositionPatient[2]) - 40.0
            for number, pixels in parts:
                if not pixels.any():
                    continue
                seen += 1
                if not np.array_equal(pixels, labels[round(height)] == number):
                    return False
        if seen != expected:
            return False
    return True


RUNS = {
    "ours": run_ours, "highdicom": run_highdicom, "sr": run_sr,
    # Not timed, but in a process of their own too: what a parent once used counts as its children's peak.
    "prepare": lambda _, folder: prepare(folder), "equal": lambda count, folder: float(equal_content(folder, count)),
}  # fmt: skip


def main() -> None:
    """Run everything, tell how it goes on stderr, and end with one line of JSON."""
    if len(sys.argv) > 1:
        seconds = RUNS[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))  # noqa: T201
        return
    figures: dict[str, Any] = {"machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say("writing inputs")
        in_fresh_process("prepare", 0, folder)
        equal = []
        for count in COUNTS:
            rounds = ROUNDS if count < 100 else 1  # the largest takes minutes
            rows: dict[str, list[tuple[float, float]]] = {"ours": [], "highdicom": [], "dcmqi": []}
            for number in range(rounds):  # interleaved: what else the machine does hits all alike
                say(f"{count} segments, round {number + 1} of {rounds}")
                rows["ours"].append(in_fresh_process("ours", count, folder))
                rows["highdicom"].append(in_fresh_process("highdicom", count, folder))
                rows["dcmqi"].append(dcmqi(count, folder))
            medians = {who: statistics.median(seconds for seconds, _ in runs) for who, runs in rows.items()}
            for who, runs in rows.items():
                figures[f"seg{count}_{who}_s"] = round(medians[who], 3)
                figures[f"seg{count}_{who}_mib"] = round(max(peak for _, peak in runs))
                if who != "ours":
                    figures[f"seg{count}_x_vs_{who}"] = round(medians[who] / medians["ours"], 2)
            equal.append(bool(in_fresh_process("equal", count, folder)[0]))
            say("  " + ", ".join(f"{who} {value:.2f} s" for who, value in medians.items()))
        figures["equal_content"] = all(equal)
        runs = [in_fresh_process("sr", 50, folder) for _ in range(ROUNDS)]
        figures["sr50_s"] = round(statistics.median(seconds for seconds, _ in runs), 3)
        figures["sr50_mib"] = round(max(peak for _, peak in runs))
    print(json.dumps(figures))  # noqa: T201


def say(words: str) -> None:
    """Tell on stderr."""
    sys.stderr.write(words + "\n")


if __name__ == "__main__":
    main()
