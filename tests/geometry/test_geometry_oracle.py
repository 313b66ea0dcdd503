"""Every way to sample a patient: what is drawn lies where it was, read back by two readers apart from the product.

`make test` takes a selection in which every pair of choices meets; ``GEOMETRY=all`` takes the whole product.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from itertools import combinations, product
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from scipy import ndimage

from models.contract import Card, Code, Findings, Measures, Segment, SegmentKind
from node.dicom import gate
from node.dicom.context import NodeIdentity, ResultContext, regions
from node.dicom.encode import encode, make_object
from node.dicom.measure import measure
from node.dicom.reader import read_series
from node.domain.profile import Profile
from node.domain.result import ResultRole
from node.errors import OutputInvalid
from tests.geometry.oracle import Outline, encloses, read_outlines, read_seg, read_volumes
from tests.geometry.sources import (
    AXIAL,
    BALL,
    CORONAL,
    DOUBLE_OBLIQUE,
    LETTER,
    SAGITTAL,
    Grid,
    Made,
    make,
)
from tests.unit.node.dicom.conftest import AT, LEFT, RIGHT

CHOICES: dict[str, tuple[Any, ...]] = {
    "cosines": (AXIAL, CORONAL, SAGITTAL, DOUBLE_OBLIQUE),
    "order": ("ascending", "descending", "shuffled"),
    "flip_rows": (False, True),
    "flip_columns": (False, True),
    "patient": ("HFS", "HFP", "FFS", "FFP"),
    "tilt": (0.0, 15.0),
    "spacing": ((3.0, 2.0, 1.7), (2.0, 2.0, 2.0)),
    "missing": ((), (13, 14)),
    "uneven": (False, True),
    "container": ("classic", "enhanced", "legacy"),
}
PLAIN = Profile(secondary_capture=False)
LABELS = {LETTER: "Right letter", BALL: "Left ball"}
CARD = Card(
    name="oracle", title="Phantom", version="1", kind="segmentation", purpose="test", modality="CT", sites=(),
    limits=(), figures=(),
    segments=tuple(
        SegmentKind(
            key=key, label=label, category=Code(value="123037004", scheme="SCT", meaning="Anatomical Structure"),
            type=Code(value="39607008", scheme="SCT", meaning="Lung"), colour=(200, 120, 10), laterality=side,
        )
        for (key, label), side in zip(LABELS.items(), (RIGHT, LEFT), strict=True)
    ),
)  # fmt: skip


def every_pair(choices: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """A small set of combinations in which every two values of two choices meet; greedy, always the same."""
    names = list(choices)
    sizes = {name: range(len(values)) for name, values in choices.items()}
    open_pairs = {((a, i), (b, j)) for a, b in combinations(names, 2) for i in sizes[a] for j in sizes[b]}
    picked = []
    while open_pairs:
        case: dict[str, int] = {}
        (a, i), (b, j) = min(open_pairs)
        case[a], case[b] = i, j
        for name in names:
            if name not in case:
                met = [
                    {pair for known in case.items() for pair in (((name, v), known), (known, (name, v)))}
                    for v in sizes[name]
                ]
                case[name] = int(np.argmax([len(pairs & open_pairs) for pairs in met]))
        picked.append({name: choices[name][case[name]] for name in names})
        open_pairs -= {((a, case[a]), (b, case[b])) for a, b in combinations(names, 2)}
    return picked


def cases() -> list[dict[str, Any]]:
    """What is run."""
    if os.environ.get("GEOMETRY") == "all":
        return [dict(zip(CHOICES, values, strict=True)) for values in product(*CHOICES.values())]
    return every_pair(CHOICES)


CASES = cases()


def findings_of(made: Made) -> Findings:
    """The true masks, measured as the product measures nothing: volumes by definition."""
    segments = []
    for key in (LETTER, BALL):
        volume = made.volume_ml(key)
        ends = ((1.0, 1.0), (2.0, 1.0))
        measures = Measures(volume_ml=volume, long_mm=1, short_mm=1, long_ends=ends, short_ends=ends, slice=0)
        segments.append(Segment(key=key, mask=made.masks[key], volume_ml=volume, measures=measures))
    return Findings(segments=tuple(segments))


def context_of(made: Made) -> ResultContext:
    """Sources in order along their normal."""
    node = NodeIdentity(node_id="oracle", serial="1", software_version="1")
    return ResultContext(
        sources=made.headers, frames=made.frames, card=CARD, model_digest="d", node=node, revision=1,
        input_digest="i", at=AT,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_what_is_drawn_lies_where_it_was(case: dict[str, Any]) -> None:
    """Centroids within a tenth of a voxel, volumes within a thousandth, outlines round their own pixels."""
    made = make(Grid(**case))
    objects = encode(findings_of(made), context_of(made), (PLAIN,))
    seg, report = (dcmread(BytesIO(one.data)) for one in objects)
    seen = read_seg(seg, made.headers)
    volumes = read_volumes(report)
    for key, label in LABELS.items():
        assert np.abs(seen[label].centroid - made.centroid(key)).max() < 0.1 * min(case["spacing"])
        assert seen[label].volume_ml == pytest.approx(made.volume_ml(key), rel=1e-3)
        assert volumes[label] == pytest.approx(seen[label].volume_ml, rel=1e-3)
        assert seen[label].voxels == np.count_nonzero(made.masks[key])
    assert seen["Left ball"].centroid[0] > 15 > -15 > seen["Right letter"].centroid[0]  # L is positive
    for line in read_outlines(report):
        check_outline(line, made)


def check_outline(line: Outline, made: Made) -> None:
    """It goes round the pixels of the largest part of its region on the image that it names, and round no other."""
    key = next(key for key, label in LABELS.items() if label == line.tracking_id)
    places = [
        place for place, header in enumerate(made.headers)
        if header.SOPInstanceUID == line.sop_uid and (not made.frames or made.frames[place] == line.frame)
    ]  # fmt: skip
    assert len(places) == 1
    plane = made.masks[key][places[0]]
    assert np.count_nonzero(plane) == np.count_nonzero(made.masks[key], axis=(1, 2)).max()
    within = np.array([
        [encloses(line.points, column + 0.5, row + 0.5) for column in range(plane.shape[1])]
        for row in range(plane.shape[0])
    ])  # fmt: skip
    assert not (within & ~plane).any()
    parts, count = ndimage.label(plane)
    assert np.count_nonzero(within) == max(np.count_nonzero(parts == n) for n in range(1, count + 1))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_reader_and_its_way_back_keep_the_place(case: dict[str, Any], tmp_path: Path) -> None:
    """Files in, a threshold on the volume that models see, the mask back on the sources; sides seen from the affine."""
    made = make(Grid(**case))
    for number, instance in enumerate(made.instances):
        instance.save_as(tmp_path / f"{number:03d}.dcm", enforce_file_format=True)
    series = read_series(sorted(tmp_path.iterdir()))
    assert [str(h.ImagePositionPatient) for h in series.source.headers] == [
        str(h.ImagePositionPatient) for h in made.headers
    ]
    assert series.source.frames == made.frames
    voxels = series.volume.voxels
    straight = series.straightening is None
    left = np.tensordot(series.volume.affine[0, :3], np.indices(voxels.shape), 1) + series.volume.affine[0, 3]
    for key, low, high in ((LETTER, 170, 450), (BALL, 320, 700)):
        found = (voxels > low) & (voxels < high) & ((left < 5) == (key == LETTER))  # its rim is bright too
        mask = series.restore(found)
        if straight:
            place = series.volume.to_patient(tuple(np.argwhere(found).mean(axis=0)))
            assert place == pytest.approx(made.centroid(key), abs=0.01)
            np.testing.assert_array_equal(mask, made.masks[key])
            measured = measure(mask, series.values, series.source.stack)
            assert measured.volume_ml == pytest.approx(made.volume_ml(key), rel=1e-3)
            assert (measured.least, measured.greatest) in ((300, 300), (600, 600))
        else:  # resampled for the model: borders may move by half a voxel
            common = np.count_nonzero(mask & made.masks[key])
            assert 2 * common / (np.count_nonzero(mask) + np.count_nonzero(made.masks[key])) > 0.8
            assert made.points[mask].mean(axis=0) == pytest.approx(made.centroid(key), abs=0.5 * max(case["spacing"]))
    np.testing.assert_array_equal(series.values[0] > 500, made.masks[BALL][0])


REGULAR = [case for case in CASES if not (case["tilt"] or case["missing"] or case["uneven"])][:6]


@pytest.mark.parametrize("case", REGULAR, ids=range(len(REGULAR)))
def test_dcmqi_sees_the_same(case: dict[str, Any], tmp_path: Path) -> None:
    """A reader of another school, in C++ over ITK: voxels and patient positions of each segment."""
    made = make(Grid(**case))
    seg = encode(findings_of(made), context_of(made), (PLAIN,))[0]
    (tmp_path / "seg.dcm").write_bytes(seg.data)
    program = Path(sys.executable).with_name("segimage2itkimage")
    line = [str(program), "--inputDICOM", str(tmp_path / "seg.dcm"), "--outputDirectory", str(tmp_path), "-t", "nrrd"]
    subprocess.run(line, check=True, capture_output=True, timeout=60)
    told = json.loads(next(tmp_path.glob("*.json")).read_text())
    by_number = {one["labelID"]: one["SegmentLabel"] for group in told["segmentAttributes"] for one in group}
    for number, label in by_number.items():
        values, header = nrrd.read(str(tmp_path / f"{number}.nrrd"))
        index = np.argwhere(values > 0)
        steps, origin = np.array(header["space directions"], float), np.array(header["space origin"], float)
        place = origin + index.mean(axis=0) @ steps
        key = next(key for key, known in LABELS.items() if known == label)
        assert len(index) == np.count_nonzero(made.masks[key])
        assert place == pytest.approx(made.centroid(key), abs=0.1 * min(case["spacing"]))


# -- an oracle that cannot fail is none


def _flip(seg: Dataset, axis: int) -> None:
    count, rows, columns = int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little", count=count * rows * columns)
    frames: NDArray[np.uint8] = np.flip(bits.reshape(count, rows, columns), axis)
    seg.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()


def _swap(seg: Dataset) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber ^= 3


def _shift(seg: Dataset) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [position[0], position[1], position[2] + 3.0]


def _mirror(seg: Dataset) -> None:
    plane = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def _stretch(seg: Dataset) -> None:
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1.7, 2.0]


LIES: dict[str, Callable[[Dataset], None]] = {
    "rows flipped": lambda seg: _flip(seg, 1), "columns flipped": lambda seg: _flip(seg, 2), "segments swapped": _swap,
    "a slice too high": _shift, "mirrored": _mirror, "spacings exchanged": _stretch,
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_the_oracle_and_the_gate_both_notice_each_lie(lie: str) -> None:
    """One change to a written Segmentation, and both say no."""
    made = make(Grid())
    context, findings = context_of(made), findings_of(made)
    seg, report = encode(findings, context, (PLAIN,))
    changed = dcmread(BytesIO(seg.data))
    LIES[lie](changed)
    seen = read_seg(changed, made.headers)
    off = [
        np.abs(seen[label].centroid - made.centroid(key)).max() > 0.17
        or abs(seen[label].volume_ml / made.volume_ml(key) - 1) > 1e-3
        for key, label in LABELS.items()
    ]
    assert any(off)
    objects = [make_object(ResultRole.SEG, changed), report]
    with pytest.raises(OutputInvalid):
        gate.check(objects, context, findings, regions(findings, context), PLAIN)


def test_the_selection_holds_every_pair() -> None:
    """Of every two choices each two values meet in some case."""
    picked = every_pair(CHOICES)
    for a, b in combinations(CHOICES, 2):
        met = {(str(case[a]), str(case[b])) for case in picked}
        assert len(met) == len(CHOICES[a]) * len(CHOICES[b])
    assert len(picked) < 40


def test_the_phantom_has_no_mirror_image() -> None:
    """Flipped along any axis it is another one."""
    masks = make(Grid(shape=(30, 40, 40), spacing=(2.0, 2.0, 2.0))).masks
    both = masks[LETTER].astype(int) + 2 * masks[BALL]
    for axis in range(3):
        assert not np.array_equal(both, np.flip(both, axis))
