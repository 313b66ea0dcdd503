"""`python -m workers.evaluate --data DIR`: both lung models over the test data, as a Markdown table.

A case is one series. Each runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from models import catalogue
from models.contract import Findings, NotApplicable, Volume
from models.evaluate.labels import read_label
from models.evaluate.metrics import compare_marks, dice
from models.evaluate.report import Row, table
from node.dicom.reader import read_series
from node.errors import InputInvalid

_OTHERS = {".json", ".md", ".nrrd", ".mha", ".gz"}  # what lies beside the images of a case


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One series of the test data, with what is known of it."""

    name: str  # folder or file below the data folder
    lungs: str = ""  # label file
    left: tuple[int, ...] = ()  # label values of the left lung
    right: tuple[int, ...] = ()
    nodules: str = ""  # label file; each component is a nodule


_VARIANTS = (
    "big-endian", "charset-japanese", "deflated", "duplicates-and-shuffled-names", "localizer-in-series",
    "missing-slices", "no-geometry", "per-slice-rescale", "rows-flipped",
)  # fmt: skip

#: A label without values for left and right tells both lungs as one.
CASES = (
    Case(name="ct-chest-lung1-001/dicom", lungs="ct-chest-lung1-001/label-lungs.nrrd", left=(1,), right=(2,)),
    Case(
        name="ct-chest-lidc-0001-slab/dicom", lungs="ct-chest-lidc-0001-slab/label-lungs-estimate.nrrd",
        nodules="ct-chest-lidc-0001-slab/label-nodules.nrrd",
    ),
    Case(name="ct-chest-r01-001-every7th/dicom", lungs="ct-chest-r01-001-every7th/label-lungs-estimate.nrrd"),
    Case(name="ct-chest-elastix-small/dicom", lungs="ct-chest-elastix-small/label-right-lung.nrrd", right=(1,)),
    Case(name="ct-chest-ibsi-pat1/dicom"),
    Case(name="ct-nodule-partsolid-crop/dicom"),
    Case(
        name="ct-abdomen-totalseg-converted/dicom", lungs="ct-abdomen-totalseg-converted/label-multiorgan.nii.gz",
        left=(10, 11), right=(12, 13, 14),
    ),
    Case(name="ct-abdomen-totalseg-dicom/dicom"),
    Case(name="ct-liver-3slice-seg/dicom"),
    Case(name="ct-head-phantom-tilt/dicom"),
    Case(name="ct-multiframe-vs-classic-phantom/classic"),
    Case(name="ct-multiframe-vs-classic-phantom/multiframe"),
    Case(name="ct-orientations-a046441/axial.dcm"),
    Case(name="ct-orientations-a046441/coronal.dcm"),
    Case(name="ct-orientations-a046441/sagittal.dcm"),
    Case(name="petctmr-sts-002/ct"),
    Case(name="petctmr-sts-002/pet"),
    Case(name="petctmr-sts-002/mr_t1"),
    Case(name="mr-brain1-tumour/dicom"),
    Case(name="mr-epi-4d-timeseries/dicom"),
    Case(name="enhanced-mr/emri_small.dcm"),
    *(
        Case(name=f"derived-variants/{one}", lungs="ct-chest-elastix-small/label-right-lung.nrrd", right=(1,))
        for one in _VARIANTS
    ),
)  # fmt: skip


def evaluate(case: Case, data: Path, device: str) -> Row:
    """Return what both models make of *case*; a refusal is a result, told in the row."""
    try:
        volume = read_series(_images(data / case.name)).volume
    except InputInvalid as why:
        return Row(case=case.name, refused=f"not read: {why}")
    row = _with_nodules(_with_lungs(Row(case=case.name), case, data, volume, device), case, data, volume, device)
    return replace(row, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0)


def _images(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return [file for file in sorted(place.iterdir()) if file.is_file() and file.suffix not in _OTHERS]


def _run(model: str, volume: Volume, device: str) -> tuple[Findings | None, float, str]:
    """Return the findings, the seconds, and why there are none."""
    loaded = catalogue.load(model, device)
    start = time.perf_counter()
    try:
        findings, why = loaded.run(volume, lambda _done, _stage: None), ""
    except NotApplicable as reason:
        findings, why = None, f"{model}: {reason}"
    return findings, time.perf_counter() - start, why


def _with_lungs(row: Row, case: Case, data: Path, volume: Volume, device: str) -> Row:
    findings, seconds, why = _run("ct-lung", volume, device)
    row = replace(row, lung_seconds=seconds, refused=why)
    if findings is None:
        return row
    found = {segment.key: segment for segment in findings.segments}
    row = replace(
        row, left_ml=found["left-lung"].volume_ml if "left-lung" in found else 0.0,
        right_ml=found["right-lung"].volume_ml if "right-lung" in found else 0.0,
    )  # fmt: skip
    if not case.lungs:
        return row
    label = read_label(data / case.lungs, volume)
    empty = label < 0
    masks = {key: found[key].mask if key in found else empty for key in ("left-lung", "right-lung")}
    if not case.left and not case.right:
        return replace(row, dice_both=dice(masks["left-lung"] | masks["right-lung"], label > 0))
    sides = (("left-lung", case.left), ("right-lung", case.right))
    left, right = (dice(masks[key], (label[..., None] == values).any(-1)) if values else None for key, values in sides)
    return replace(row, dice_left=left, dice_right=right)


def _with_nodules(row: Row, case: Case, data: Path, volume: Volume, device: str) -> Row:
    findings, seconds, why = _run("ct-lung-nodule", volume, device)
    row = replace(row, nodule_seconds=seconds, refused=row.refused or why)
    if findings is None:
        return row
    row = replace(row, marks=len(findings.detections))
    if not case.nodules:
        return row
    marks = compare_marks(findings.detections, read_label(data / case.nodules, volume) > 0, volume)
    return replace(row, labelled=marks.labelled, hit=marks.hit, false_marks=marks.false)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; progress goes to standard error, the table to standard output."""
    parser = argparse.ArgumentParser(prog="python -m workers.evaluate", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the test data")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--device", default="cpu", help="torch device, e.g. cuda:0")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if options.only in case.name]
    if not cases or not options.data.is_dir():
        parser.error(f"no case holds {options.only!r}" if options.data.is_dir() else f"no folder {options.data}")
    rows = []
    for case in cases:
        sys.stderr.write(f"{case.name}\n")
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(evaluate, case, options.data, options.device).result())
    sys.stdout.write(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
