"""Tracking identifiers: what was named before keeps its name, what is new gets one that nobody had."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from models.contract import Detection, Findings
from node.dicom.encode import encode
from node.domain.profile import Profile, SegType
from tests.unit.node.dicom.conftest import NODULE_CARD, box, context_of, ct_series, to_patient, two_lungs

PLAIN = Profile(secondary_capture=False)


def nodule(sources: tuple[Dataset, ...], row: int, column: int, size: int = 4, site: str = "right-lung") -> Detection:
    """A box of voxels on two slices."""
    mask = box(sources, slice(2, 4), slice(row, row + size), slice(column, column + size))
    centre = to_patient(sources[2], row + (size - 1) / 2, column + (size - 1) / 2)
    return Detection(
        key="nodule", mask=mask, centre_mm=centre, diameter_mm=3.0, volume_ml=0.05, score=0.8, site=site
    )


def seg_of(sources: tuple[Dataset, ...], found: list[Detection], revision: int, *prior: Dataset) -> Dataset:
    """Encode nodules as a revision with earlier results."""
    context = context_of(sources, NODULE_CARD, revision=revision, prior=prior)
    return dcmread(BytesIO(encode(Findings(detections=tuple(found)), context, (PLAIN,))[0].data))


def names(seg: Dataset) -> list[tuple[str, str]]:
    """(tracking UID, tracking ID) of each segment."""
    return [(str(one.TrackingUID), str(one.TrackingID)) for one in seg.SegmentSequence]


@pytest.mark.parametrize("kind", [SegType.BINARY, SegType.FRACTIONAL, SegType.LABELMAP])
def test_a_lesion_keeps_its_name_when_others_come_and_go(sources: tuple[Dataset, ...], kind: SegType) -> None:
    """The first vanishes, the second is found first and a little moved, a third is new."""
    before = [nodule(sources, 3, 3), nodule(sources, 12, 12)]
    context = context_of(sources, NODULE_CARD)
    profile = replace(PLAIN, name="p", seg=kind)
    old = dcmread(BytesIO(encode(Findings(detections=tuple(before)), context, (profile,))[0].data))
    known = [(str(one.TrackingUID), str(one.TrackingID)) for one in old.SegmentSequence if one.SegmentNumber]
    new = names(seg_of(sources, [nodule(sources, 12, 13), nodule(sources, 3, 14)], 2, old))
    assert new[0] == known[1]
    assert new[1][0] not in {uid for uid, _ in known}


def test_of_two_parts_of_one_lesion_the_larger_keeps_the_name(sources: tuple[Dataset, ...]) -> None:
    """One to one: a tracking UID stands once in a result."""
    old = seg_of(sources, [nodule(sources, 4, 4, size=6)], 1)
    parts = [nodule(sources, 4, 4, size=4), nodule(sources, 5, 5, size=5)]
    new = seg_of(sources, parts, 2, old)
    assert names(new)[1] == names(old)[0] != names(new)[0]
    assert len({uid for uid, _ in names(new)}) == 2


def test_another_side_or_type_is_another_thing(sources: tuple[Dataset, ...]) -> None:
    """At the same place, but said to lie in the other lung."""
    old = seg_of(sources, [nodule(sources, 4, 4)], 1)
    new = seg_of(sources, [nodule(sources, 4, 4, site="left-lung")], 2, old)
    assert names(new)[0][0] != names(old)[0][0]


def test_in_a_follow_up_organs_are_known_and_lesions_are_not(sources: tuple[Dataset, ...]) -> None:
    """Another frame of reference: nobody knows which lesion is which without a registration."""
    later = ct_series(corner=(-9.0, -7.5, 12.0))
    for source in later:
        source.FrameOfReferenceUID = "2.25.78.9"
    organs = [
        dcmread(BytesIO(encode(two_lungs(s), context_of(s, revision=n), (PLAIN,))[0].data))
        for n, s in enumerate((sources, later), start=1)
    ]
    known = dcmread(BytesIO(encode(two_lungs(later), context_of(later, prior=(organs[0],)), (PLAIN,))[0].data))
    assert names(known) == names(organs[0]) != names(organs[1])
    old = seg_of(sources, [nodule(sources, 4, 4)], 1)
    assert names(seg_of(later, [nodule(later, 4, 4)], 2, old))[0][0] != names(old)[0][0]


def test_the_newest_prior_counts(sources: tuple[Dataset, ...]) -> None:
    """Of two earlier results that draw the same, the first given names it."""
    first, second = seg_of(sources, [nodule(sources, 4, 4)], 1), seg_of(sources, [nodule(sources, 4, 4)], 2)
    assert names(first) != names(second)
    assert names(seg_of(sources, [nodule(sources, 4, 4)], 3, second, first)) == names(second)
    assert np.count_nonzero(second.pixel_array) == 2 * 16
