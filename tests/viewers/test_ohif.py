"""OHIF, the real one, shows our results at the right place, in their colours, with their names and numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from models.contract import Findings
from node.dicom.context import Pictures
from node.domain.profile import Profile, SegType, SrClass
from tests.viewers import phantom
from tests.viewers.conftest import OUT, Archive
from tests.viewers.ohif import Ohif, Shown
from tests.viewers.phantom import BODY, HEART, LEFT_LUNG, NODULE, RIGHT_LUNG, SLICES, SOURCES, Shape, Source
from tests.viewers.picture import Picture

pytestmark = [pytest.mark.viewers, pytest.mark.timeout(300)]

LUNGS = {"right-lung": RIGHT_LUNG, "left-lung": LEFT_LUNG}
ALIKE = 0.97  # Dice of what is painted and what should be; a viewer's scaling moves borders by less than a voxel
SLICE = 18  # of the phantom: far from its middle, so that a stack turned upside down shows other sizes
LINES = ((0, 220, 0), (240, 240, 0))  # what a report outlines is green, and what its arrow went to yellow


def painted(picture: Picture, shapes: Mapping[str, Shape]) -> bool:
    """Whether every one of *shapes* has left some colour."""
    return all(picture.coloured(phantom.COLOURS[key]).sum() > 500 for key in shapes)


def show_seg(ohif: Ohif, source: Source, place: int, shapes: Mapping[str, Shape]) -> Shown:
    """Open the segmentation and turn to slice *place* of the phantom."""
    with ohif.study(source.study) as viewer:
        viewer.open("SEG")
        assert viewer.wait_for_labels()
        viewer.scroll_to(source.position(place))
        return viewer.rest(lambda picture: painted(picture, shapes))


def check_painted(shown: Shown, source: Source, place: int, shapes: Mapping[str, Shape]) -> None:
    """Each shape has its colour where no other covers it, voxel by voxel but for some at the border."""
    grid = shown.picture.grid(source.plane(BODY, place))
    planes = {key: source.plane(shape, place) for key, shape in shapes.items()}
    for key, plane in planes.items():
        alone = plane & ~np.any([other for name, other in planes.items() if name != key], axis=0)
        seen = grid.voxels(shown.picture.coloured(phantom.COLOURS[key]), (plane.shape[0], plane.shape[1]))
        assert 2 * (seen & alone).sum() / (seen.sum() + alone.sum()) > ALIKE, key


@pytest.mark.parametrize("kind", ["axial", "oblique", "enhanced", "reversed", "tilted", "gaps"])
def test_a_binary_segmentation(kind: str, study: str, archive: Archive, ohif: Ohif) -> None:
    """Both lungs, each on its side and on its slice, whatever the source is like."""
    source = SOURCES[kind](study)
    archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile())
    shown = show_seg(ohif, source, SLICE, LUNGS)
    shown.picture.save(OUT / f"seg-{kind}.png")
    assert shown.labels == ("Right lung", "Left lung")
    check_painted(shown, source, SLICE, LUNGS)
    assert shown.complaints == ()


def test_segments_that_overlap(study: str, archive: Archive, ohif: Ohif) -> None:
    """A heart that reaches into the left lung hides neither."""
    source = phantom.axial(study)
    shapes = {**LUNGS, "heart": HEART}
    archive.keep(source, phantom.organs(source, shapes), phantom.ORGANS, Profile())
    shown = show_seg(ohif, source, 12, shapes)
    shown.picture.save(OUT / "seg-overlap.png")
    assert shown.labels == ("Right lung", "Left lung", "Heart")
    check_painted(shown, source, 12, shapes)
    assert shown.complaints == ()


def test_one_bit_rows_that_end_inside_a_byte(study: str, archive: Archive, ohif: Ohif) -> None:
    """OHIF takes the whole instance and is right; Orthanc 1.10 refuses single frames to viewers that ask for them.

    If the last line fails the server was mended: docs/viewers.md should say so.
    """
    source = phantom.narrow(study)
    made = archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile())
    shown = show_seg(ohif, source, SLICE, LUNGS)
    shown.picture.save(OUT / "seg-narrow.png")
    check_painted(shown, source, SLICE, LUNGS)
    assert shown.complaints == ()
    assert archive.status_of_frame(made[0]) == 400


def test_one_bit_frames_that_end_inside_a_byte(study: str, archive: Archive, ohif: Ohif) -> None:
    """OHIF paints stripes. If this test fails it was mended: `_suited` of node/dicom/encode.py can go."""
    source = phantom.odd(study)
    archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile(binary_always=True))
    shown = show_seg(ohif, source, SLICE, LUNGS)
    shown.picture.save(OUT / "seg-odd-binary.png")
    with pytest.raises(AssertionError):
        check_painted(shown, source, SLICE, LUNGS)


def test_what_is_sent_instead(study: str, archive: Archive, ohif: Ohif) -> None:
    """Eight bits a pixel, by the default profile: FRACTIONAL, with no other values than nothing and all."""
    source = phantom.odd(study)
    made = archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile())
    assert made[0].dataset.SegmentationType == "FRACTIONAL"
    shown = show_seg(ohif, source, SLICE, LUNGS)
    shown.picture.save(OUT / "seg-odd-fractional.png")
    assert shown.labels == ("Right lung", "Left lung")
    check_painted(shown, source, SLICE, LUNGS)
    assert shown.complaints == ()
    assert archive.status_of_frame(made[0]) == 200


def test_a_label_map_is_painted_wrong(study: str, archive: Archive, ohif: Ohif) -> None:
    """Why it must be allowed by name. If this test fails OHIF was mended: docs/viewers.md should say so."""
    source = phantom.axial(study)
    archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile(seg=SegType.LABELMAP))
    with ohif.study(source.study) as viewer:
        viewer.open("SEG")
        viewer.wait_for_labels()
        viewer.scroll_to(source.position(SLICE))
        shown = viewer.rest()
    shown.picture.save(OUT / "seg-labelmap.png")
    with pytest.raises(AssertionError):
        check_painted(shown, source, SLICE, LUNGS)


def check_outlined(shown: Shown, source: Source, place: int, shape: Shape) -> None:
    """Slice *place* of the phantom is shown, with a line around *shape*."""
    assert shown.position == source.position(place)
    drawn = np.any([shown.picture.coloured(line) for line in LINES], axis=0)
    grid = shown.picture.grid(source.plane(BODY, place))
    assert grid.share_of_edge(drawn, source.plane(shape, place)) > 0.9


@pytest.mark.parametrize("kind", [SrClass.COMPREHENSIVE_3D, SrClass.COMPREHENSIVE])
def test_a_report_on_organs(kind: SrClass, study: str, archive: Archive, ohif: Ohif) -> None:
    """Each organ is outlined on its largest slice, with its volume beside it; the arrow leads to the next."""
    source = phantom.axial(study)
    findings = phantom.organs(source)
    archive.keep(source, findings, phantom.ORGANS, Profile(sr=kind))
    with ohif.study(source.study) as viewer:
        viewer.open("SR")
        viewer.wait_for_text("Volume: ")
        first = viewer.rest()
        viewer.next()
        second = viewer.rest()
    first.picture.save(OUT / f"sr-{kind}.png")
    second.picture.save(OUT / f"sr-{kind}-next.png")
    for shown, segment, shape in zip((first, second), findings.segments, LUNGS.values(), strict=True):
        check_outlined(shown, source, round(shape.middle[0]), shape)
        assert f"Volume: {segment.volume_ml:.2f} ml" in shown.text
    assert second.complaints == ()


@pytest.mark.parametrize("seg", [SegType.BINARY, SegType.NONE])
def test_a_report_on_a_nodule(seg: SegType, study: str, archive: Archive, ohif: Ohif) -> None:
    """Outline, diameter and certainty, with a segmentation beside it, and without: then on each of its slices."""
    source = phantom.axial(study)
    archive.keep(source, phantom.one_nodule(source), phantom.NODULES, Profile(seg=seg))
    with ohif.study(source.study) as viewer:
        viewer.open("SR")
        viewer.wait_for_text("Diameter: ")
        shown = viewer.rest()
    shown.picture.save(OUT / f"sr-nodule-{seg}.png")
    first = min(source.places[index] for index in np.flatnonzero(source.mask(NODULE).any(axis=(1, 2))))
    check_outlined(shown, source, first if seg is SegType.NONE else round(NODULE.middle[0]), NODULE)
    for words in ("Diameter: 21.60 mm", "Certainty of Finding: 87.00 %"):
        assert words in shown.text
    assert shown.complaints == ()


def test_a_report_of_nothing_found(study: str, archive: Archive, ohif: Ohif) -> None:
    """OHIF shows no text of a report without outlines: the page beside it does. If "black" fails OHIF was mended."""
    source = phantom.axial(study)
    archive.keep(source, Findings(), phantom.NODULES, Profile(), Pictures(pages=(page(),)))
    with ohif.study(source.study) as viewer:
        viewer.open("SR")
        viewer.wait_for_black()
        report = viewer.rest()
        viewer.open("OT")
        shown = viewer.rest(lambda picture: painted(picture, LUNGS))
    report.picture.save(OUT / "sr-nothing.png")
    assert report.picture.is_black
    assert painted(shown.picture, LUNGS)
    assert shown.complaints == ()


@pytest.mark.parametrize("kind", ["axial", "oblique", "reversed"])
def test_a_parametric_map(kind: str, study: str, archive: Archive, ohif: Ohif) -> None:
    """Values are coloured where they are, in place and on their slice."""
    source = SOURCES[kind](study)
    archive.keep(source, phantom.likelihood(source), phantom.MAPPED, Profile(parametric_map=True))
    with ohif.study(source.study) as viewer:
        viewer.open("PMAP")
        viewer.scroll_to(SLICES - SLICE)  # this view counts from the feet, and begins in the middle
        shown = viewer.rest(lambda picture: picture.any_colour().sum() > 5000)
    shown.picture.save(OUT / f"pm-{kind}.png")
    assert shown.complaints == ()
    grid = shown.picture.grid(source.plane(BODY, SLICE))
    coloured = shown.picture.any_colour()
    coloured[:60] = coloured[-60:] = False  # symbols in the corners
    half = coloured.shape[1] // 2
    for key, side in (("right-lung", np.s_[:half]), ("left-lung", np.s_[half:])):
        one_side = np.zeros_like(coloured)
        one_side[:, side] = coloured[:, side]
        patch, plane = grid.patch(one_side), source.plane(LUNGS[key], SLICE)
        rows, columns = np.nonzero(plane)
        assert patch.area == pytest.approx(plane.sum(), rel=0.15), key
        assert (patch.row, patch.column) == pytest.approx((rows.mean(), columns.mean()), abs=2), key


def page() -> NDArray[np.uint8]:
    """A page (rows, columns, 3): a red box in one corner, a violet one in the other."""
    pixels = np.full((400, 600, 3), 40, np.uint8)
    pixels[20:120, 30:230] = phantom.COLOURS["right-lung"]
    pixels[150:380, 450:560] = phantom.COLOURS["left-lung"]
    return pixels


def test_a_secondary_capture(study: str, archive: Archive, ohif: Ohif) -> None:
    """The study still opens with the CT; pages are a series of their own, in true colours, the right way round."""
    source = phantom.axial(study)
    archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile(), Pictures(pages=(page(),)))
    with ohif.study(source.study) as viewer:
        opened = viewer.rest()
        viewer.open("OT")
        shown = viewer.rest(lambda picture: painted(picture, LUNGS))
    shown.picture.save(OUT / "sc.png")
    opened.picture.grid(source.plane(BODY, SLICES - 1))
    height, width = shown.picture.pixels.shape[:2]
    red, violet = (np.argwhere(shown.picture.coloured(phantom.COLOURS[key])).mean(axis=0) for key in LUNGS)
    assert red[0] < height / 2 < violet[0]
    assert red[1] < width / 2 < violet[1]
    assert "AI Organs 1.2.0" in shown.text
    assert shown.complaints == ()


def test_a_printed_report(study: str, archive: Archive, ohif: Ohif) -> None:
    """The PDF is opened in the viewport."""
    source = phantom.axial(study)
    pictures = Pictures(report=phantom.pdf())
    archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile(secondary_capture=False, pdf=True), pictures)
    red = phantom.COLOURS["right-lung"]
    with ohif.study(source.study) as viewer:
        opened = viewer.rest()
        viewer.open("DOC")
        shown = viewer.rest(lambda picture: picture.coloured(red).sum() > 5000)
    shown.picture.save(OUT / "pdf.png")
    opened.picture.grid(source.plane(BODY, SLICES - 1))  # the study still opens with the CT
    assert shown.picture.coloured(red).sum() > 5000
    assert shown.complaints == ()


def test_presentation_states_and_key_images_do_no_harm(study: str, archive: Archive, ohif: Ohif) -> None:
    """OHIF draws neither; the CT opens as ever, and the segmentation beside them is painted."""
    source = phantom.axial(study)
    profile = Profile(presentation_state=True, key_images=True)
    archive.keep(source, phantom.organs(source), phantom.ORGANS, profile)
    with ohif.study(source.study) as viewer:
        opened = viewer.rest()
        assert {"PR", "KO"} <= set(viewer.series())
    opened.picture.grid(source.plane(BODY, SLICES - 1))
    shown = show_seg(ohif, source, SLICE, LUNGS)
    check_painted(shown, source, SLICE, LUNGS)
    assert shown.complaints == ()
