"""What the node gives for every series of the test data, read back beside its source: `make bench-cases`.

    python -m tests.benchmarks.cases [--only TEXT]

Each series is read and given to every shipped model. Where none of them draws anything in it, a stand-in that takes
the brightest thing in view does, so that every series that can be read is encoded. What comes out is compared with
the source files by the reader of the geometry oracle, which shares no line with the node: places, volumes, outlines,
and the values that pydicom finds in the source images under each segment.

Writes docs/cases.md, one line for each series; progress goes to standard error. The last line on standard output is
one JSON object; `wrong` above 0 ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from scipy import ndimage

from models import catalogue
from models.contract import Card, Code, Findings, NotApplicable, Segment, SegmentKind, Volume
from models.evaluate.labels import read_label
from models.evaluate.metrics import dice
from node.dicom.context import NodeIdentity, ResultContext, regions
from node.dicom.encode import encode
from node.dicom.gate.findings import check_body_side
from node.dicom.header import read_facts
from node.dicom.reader import LoadedSeries, read_series
from node.domain.profile import Profile
from node.domain.result import ResultRole
from node.errors import InputInvalid, OutputInvalid, UnreadableInstance
from tests.geometry.readback import Slice, faults_of, read_report, read_seg, source_slices, truth_of
from workers.inference import on_source_grid
from workers.reference_cases import CASES as LABELLED

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cases.md"
PROFILE = Profile(name="cases", secondary_capture=False, binary_always=True)
NOT_DICOM = {".md", ".json", ".nrrd", ".mha", ".gz", ".txt"}
LAST = ("ct-chest-r01-001-every7th", "ct-chest-lung1-001")  # half a minute each
STAND_IN = Card(
    name="stand-in", title="Brightest thing", version="1", kind="segmentation", purpose="test", modality="", sites=(),
    limits=(), figures=(),
    segments=(
        SegmentKind(
            key="bright", label="Brightest thing", colour=(230, 120, 0),
            category=Code(value="85756007", scheme="SCT", meaning="Tissue"),
            type=Code(value="85756007", scheme="SCT", meaning="Tissue"),
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Series:
    """Files that a sender would send as one series."""

    case: str
    name: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the page."""

    series: Series
    verdict: str  # right, refused, wrong
    given: str
    checked: str


# -- which series there are


def all_series(data: Path) -> list[Series]:
    """Every series below *data*: those in a case's folders whole, files beside them one by one."""
    found = []
    for case in sorted(folder for folder in data.iterdir() if (folder / "README.md").is_file()):
        files = [file for file in sorted(case.rglob("*")) if file.is_file() and file.suffix not in NOT_DICOM]
        grouped: dict[str, list[Path]] = {}
        for file in files:
            inside = file.parent.relative_to(case).as_posix()
            name = file.name if inside == "." else f"{inside}{_series_of(file)}"
            grouped.setdefault(name, []).append(file)
        for name, paths in grouped.items():
            found.append(Series(case=case.name, name=name.split("|")[0], paths=tuple(paths)))
    return sorted(found, key=lambda one: LAST.index(one.case) + 1 if one.case in LAST else 0)


def _series_of(file: Path) -> str:
    try:
        return f"|{read_facts(file).series_uid}"
    except UnreadableInstance:
        return "|"


# -- one series


def run(series: Series, data: Path) -> Line:
    """Return what is given for *series*; an error that nobody foresaw is a wrong result, told by its kind."""
    try:
        return _run(series, data)
    except InputInvalid as why:
        return Line(series=series, verdict="refused", given=str(why), checked="the reader's reason")
    except OutputInvalid as why:
        return Line(series=series, verdict="refused", given=f"held by the gate: {why}", checked="the gate's reason")
    except Exception as why:  # noqa: BLE001  # the page is to name it, and go on
        return Line(series=series, verdict="wrong", given=f"{type(why).__name__}: {why}", checked="")


def _run(series: Series, data: Path) -> Line:
    loaded = read_series(series.paths)
    slices, source = _source(series, loaded)
    shape = " x ".join(str(n) for n in loaded.source.stack.shape)
    told, faults, drew = [f"{loaded.volume.modality} {shape}", *loaded.source.remarks], list[str](), False
    for name in catalogue.card_names():
        try:
            raw = catalogue.load(name, "cpu").run(loaded.volume, lambda *_: None)
        except NotApplicable as why:
            told.append(f"{name}: not applicable, {why}")
            continue
        check_body_side(loaded.volume, raw, catalogue.card(name))
        words, wrong = _checked(loaded, raw, catalogue.card(name), slices, source)
        told.append(f"{name}: {words}{_beside_label(series, data, raw, loaded.volume)}")
        faults += [f"{name}: {one}" for one in wrong]
        drew = drew or bool(raw.segments or raw.detections)
    if not drew:
        words, wrong = _checked(loaded, brightest(loaded.volume), STAND_IN, slices, source)
        told.append(f"stand-in: {words}")
        faults += [f"stand-in: {one}" for one in wrong]
    return Line(
        series=series, verdict="wrong" if faults else "right", given="; ".join(faults or told),
        checked="SEG and SR by the oracle, values in the source by pydicom",
    )


def brightest(volume: Volume) -> Findings:
    """Return the largest connected thing among the brightest twentieth of *volume*; nothing in an even one."""
    level = float(np.percentile(volume.voxels, 95))
    parts, count = ndimage.label(volume.voxels > level)
    if not count:
        return Findings()
    mask = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return Findings(segments=(Segment(key="bright", mask=mask, volume_ml=float(mask.sum()) * volume.voxel_ml),))


def _beside_label(series: Series, data: Path, found: Findings, volume: Volume) -> str:
    """How far the lungs agree with those that people drew, where they did (Dice)."""
    name = f"{series.case}/{series.name}"
    known = next((one for one in LABELLED if one.name == name and one.lungs and (one.left or one.right)), None)
    masks = {one.key: one.mask for one in found.segments}
    if known is None or not masks:
        return ""
    label = read_label(data / known.lungs, volume)
    sides = (("left-lung", known.left), ("right-lung", known.right))
    scores = [
        f"{key} {dice(masks.get(key, label < 0), np.isin(label, values)):.3f}" for key, values in sides if values
    ]
    return f" (Dice beside the label: {', '.join(scores)})"


# -- what came out, beside the source


class Source:
    """The values of a series as pydicom finds them in its files."""

    def __init__(self, places: dict[tuple[str, int], tuple[Path, int]]) -> None:
        self._places = places
        self._last: tuple[Path, NDArray[np.float64]] | None = None

    def values(self, sop_uid: str, frame: int) -> NDArray[np.float64]:
        """Return the rescaled values (rows, columns) of one image or frame; CT padding is air, as for the models."""
        path, number = self._places[sop_uid, frame]
        if self._last is None or self._last[0] != path:
            self._last = (path, _rescaled(dcmread(path)))
        values: NDArray[np.float64] = self._last[1][number]
        return values


def _rescaled(image: Dataset) -> NDArray[np.float64]:
    """All frames (frames, rows, columns)."""
    stored: NDArray[np.integer] = image.pixel_array
    stored = stored[None] if stored.ndim == 2 else stored
    values = np.empty(stored.shape)
    shared = (image.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for number, group in enumerate(image.get("PerFrameFunctionalGroupsSequence") or [image]):
        word = "PixelValueTransformationSequence"
        scale = next((one[word].value[0] for one in (group, shared) if word in one), image)
        slope, intercept = float(scale.get("RescaleSlope", 1)), float(scale.get("RescaleIntercept", 0))
        values[number] = stored[number] * slope + intercept
        if image.Modality == "CT":
            padding = image.get("PixelPaddingValue")
            if isinstance(padding, int):
                values[number][stored[number] == np.array(padding).astype(stored.dtype)] = -1024
            values[number] = np.maximum(values[number], -1024)
    return values


def _source(series: Series, loaded: LoadedSeries) -> tuple[list[Slice], Source]:
    """The slices of the files, by the oracle's reading, that the reader took; and where their values are."""
    frames = loaded.source.frames or (0,) * len(loaded.source.headers)
    taken = {(str(one.SOPInstanceUID), n) for one, n in zip(loaded.source.headers, frames, strict=True)}
    slices: dict[tuple[str, int], Slice] = {}
    places: dict[tuple[str, int], tuple[Path, int]] = {}
    for path in series.paths:
        header = dcmread(path, stop_before_pixels=True)
        if "ImagePositionPatient" not in header and "PerFrameFunctionalGroupsSequence" not in header:
            continue
        for one in source_slices([header]):
            key = (one.sop_uid, one.frame)
            if key in taken and key not in slices:  # an instance that was sent twice counts once
                slices[key], places[key] = one, (path, max(0, one.frame - 1))
    ordered = sorted(slices.values(), key=lambda one: float(one.corner @ next(iter(slices.values())).normal))
    return ordered, Source(places)


def _checked(
    loaded: LoadedSeries, raw: Findings, card: Card, slices: list[Slice], source: Source
) -> tuple[str, list[str]]:
    """Encode *raw* and read it back; return what it says, in words, and all that is wrong."""
    found = on_source_grid(raw, loaded)
    context = ResultContext(
        sources=loaded.source.headers, frames=loaded.source.frames, card=card, model_digest="cases", revision=1,
        node=NodeIdentity(node_id="cases", serial="1", software_version="1"), input_digest="cases",
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    made = {one.role: dcmread(BytesIO(one.data)) for one in encode(found, context, (PROFILE,))}
    masks = {one.label: one.mask for one in regions(found, context)}
    report = made[ResultRole.SR]
    if not masks:
        told = read_report(report)
        return "nothing found", ["a report of something"] if told or ResultRole.SEG in made else []
    seg = made[ResultRole.SEG]
    finest = min(float(np.linalg.norm(v)) for v in (slices[0].to_next_row, slices[0].to_next_column))
    truths = {label: truth_of(mask, slices) for label, mask in masks.items()}
    faults = faults_of(seg, report, slices, truths, within_mm=0.1 * finest)
    seen = {one.label: one for one in read_seg(seg, slices, faults)}
    words = []
    for label, mask in masks.items():
        theirs = float(np.concatenate([
            source.values(slices[place].sop_uid, slices[place].frame)[plane]
            for place, plane in seen[label].planes.items()
        ]).mean())  # fmt: skip
        ours = float(loaded.values[mask].mean(dtype=np.float64))
        if abs(theirs - ours) > 1e-3 * max(1.0, abs(ours)):
            faults.append(f"{label}: a mean of {ours:.2f}, but {theirs:.2f} in the source under its segment")
        unit = " HU" if loaded.volume.modality == "CT" else ""
        words.append(f"{label} {seen[label].volume_ml:.2f} mL, mean {theirs:.1f}{unit}")
    return ", ".join(words), faults


# -- the page


def page(lines: Sequence[Line]) -> str:
    """Return docs/cases.md."""
    counts = Counter(line.verdict for line in lines)
    text = [
        "# What the node gives for every series of the test data",
        "",
        "Made by `make bench-cases`; not edited by hand. Each series is read and given to both shipped models; where",
        "neither draws anything in it, a stand-in that takes the brightest thing in view does, so that every series",
        "that can be read ends in a segmentation and a report. **Right** means: read back by a reader that shares no",
        "line with the node, every voxel, middle, volume, outline and side agrees with what was found and with the",
        "source files, and so do the values that pydicom finds there under each segment. It does not mean that a model",
        "is right about the patient: that is in [models.md](models.md), and in the Dice figures here where people drew",
        "lungs. **Refused** is a right answer to what is no volume; the reason is the one that a person is shown.",
        "",
        f"{counts['right']} right, {counts['refused']} refused, {counts['wrong']} wrong.",
        "",
        "| Case | Series | Verdict | What was given | Checked how |",
        "|---|---|---|---|---|",
        *(_row(line) for line in sorted(lines, key=lambda one: (one.series.case, one.series.name))),
    ]
    return "\n".join(text) + "\n"


def _row(line: Line) -> str:
    cells = (line.series.case, line.series.name, line.verdict, line.given, line.checked)
    return "| " + " | ".join(" ".join(cell.replace("|", "/").split()) for cell in cells) + " |"


def lines_of(chosen: Sequence[Series], data: Path) -> Iterator[Line]:
    """Run one series after the other, saying so."""
    for number, series in enumerate(chosen, start=1):
        began = time.monotonic()
        line = run(series, data)
        where = f"[{number}/{len(chosen)}] {series.case}/{series.name}"
        sys.stderr.write(f"{where}: {line.verdict}, {time.monotonic() - began:.1f} s\n")
        if line.verdict == "wrong":
            sys.stderr.write(f"  {line.given}\n")
        yield replace(line, given=line.given.replace(str(data), "data"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run over all series and write the page; with --only, print the lines and leave the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cases")
    parser.add_argument("--only", default="", help="series whose case or name holds this text")
    options = parser.parse_args(arguments)
    data = Path(os.environ.get("PACS_NODE_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not (data / "README.md").is_file():
        sys.exit(f"no test data at {data} (set PACS_NODE_TEST_DATA)")
    warnings.simplefilter("ignore")  # pydicom's, of values that break their VR: they repeat the values
    began = time.monotonic()
    chosen = [one for one in all_series(data) if options.only in f"{one.case}/{one.name}"]
    lines = list(lines_of(chosen, data))
    if options.only:
        sys.stderr.write("\n".join(_row(line) for line in lines) + "\n")
    else:
        PAGE.write_text(page(lines), encoding="utf-8")
    counts = Counter(line.verdict for line in lines)
    figures = {
        "bench": "cases", "series": len(lines), "right": counts["right"], "refused": counts["refused"],
        "wrong": counts["wrong"], "seconds": round(time.monotonic() - began),
    }  # fmt: skip
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.exit(1 if counts["wrong"] else 0)


if __name__ == "__main__":
    main()
