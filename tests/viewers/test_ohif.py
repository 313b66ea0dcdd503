"""OHIF, the real one, shows our results at the right place, in their colours, with their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.domain.profile import Profile, SrClass
from tests.viewers import phantom
from tests.viewers.conftest import OUT, Archive
from tests.viewers.ohif import Ohif, Shown
from tests.viewers.phantom import SOURCES, Shape, Source

pytestmark = [pytest.mark.viewers, pytest.mark.timeout(300)]

KINDS = {"right-lung": phantom.RIGHT_KIND, "left-lung": phantom.LEFT_KIND, "heart": phantom.HEART_KIND}


@pytest.mark.parametrize("kind", ["axial", "oblique", "enhanced", "reversed", "tilted", "gaps"])
def test_a_binary_segmentation(kind: str, study: str, archive: Archive, ohif: Ohif) -> None:
    """Both lungs, each on its side, as large as its mask, whatever the source is like."""
    source = SOURCES[kind](study)
    archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile())
    shown = show_seg(ohif, source)
    shown.picture.save(OUT / f"seg-{kind}.png")
    assert shown.complaints == ()
    assert shown.labels == ("Right lung", "Left lung")
    place = place_of(shown, source)
    check_painted(shown, source, place, "right-lung", phantom.RIGHT_LUNG)
    check_painted(shown, source, place, "left-lung", phantom.LEFT_LUNG)


def show_seg(ohif: Ohif, source: Source) -> Shown:
    with ohif.study(source.study) as viewer:
        viewer.open("SEG")
        assert viewer.wait_for_labels()
        viewer.scroll_to(12)
        colours = [KINDS[key].colour for key in ("right-lung", "left-lung")]
        return viewer.rest(lambda picture: all(picture.coloured(colour).sum() > 2000 for colour in colours))


def place_of(shown: Shown, source: Source) -> int:
    """Which slice of the phantom is shown, by the number that the viewport says."""
    print(shown.place)
    return source.places[[int(h.InstanceNumber) for h in source.headers].index(shown.number)]


def check_painted(shown: Shown, source: Source, place: int, key: str, shape: Shape) -> None:
    mask = shape.on(source.columns)[place]
    patch = shown.picture.grid(place, source.columns).patch(shown.picture.coloured(KINDS[key].colour))
    rows, columns = mask.nonzero()
    print(key, patch, mask.sum(), rows.mean(), columns.mean())
