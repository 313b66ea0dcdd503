"""OHIF, the real one, shows our results at the right place, in their colours, with their names and numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from models.contract import Findings
from node.dicom.context import Pictures
from node.domain.profile import Profile, SegType, SrClass
from tests.viewers import phantom
from tests.viewers.conftest import OUT, Archive
from tests.viewers.ohif import Ohif, Shown
from tests.viewers.phantom import HEART, LEFT_LUNG, NODULE, RIGHT_LUNG, SOURCES, Shape, Source
from tests.viewers.picture import Picture

pytestmark = [pytest.mark.viewers, pytest.mark.timeout(300)]

LUNGS = {"right-lung": RIGHT_LUNG, "left-lung": LEFT_LUNG}
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
    """Each shape has its colour where no other covers it: as large as its mask, around the same middle."""
    grid = shown.picture.grid(place, source.columns)
    planes = {key: shape.on(source.columns)[place] for key, shape in shapes.items()}
    for key, plane in planes.items():
        alone = plane & ~np.any([other for name, other in planes.items() if name != key], axis=0)
        rows, columns = np.nonzero(alone)
        patch = grid.patch(shown.picture.coloured(phantom.COLOURS[key]))
        assert patch.area == pytest.approx(alone.sum(), rel=0.1), key
        assert (patch.row, patch.column) == pytest.approx((rows.mean(), columns.mean()), abs=1.5), key


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


def test_one_bit_pixels_fail_where_columns_fill_no_byte(study: str, archive: Archive, ohif: Ohif) -> None:
    """Orthanc 1.10 refuses the frames. If this test fails the server was mended: docs/viewers.md should say so."""
    source = phantom.wide_250(study)
    archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile())
    with ohif.study(source.study) as viewer:
        viewer.open("SEG")
        viewer.wait_for_complaint("0: ")
        shown = viewer.rest()
    shown.picture.save(OUT / "seg-250-columns-binary.png")
    assert any("400: " in one and "/frames/" in one for one in shown.complaints)
    assert not painted(shown.picture, LUNGS)


def test_eight_bit_pixels_do_not(study: str, archive: Archive, ohif: Ohif) -> None:
    """What we send instead: FRACTIONAL, with no other values than nothing and all."""
    source = phantom.wide_250(study)
    archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile(seg=SegType.FRACTIONAL))
    shown = show_seg(ohif, source, SLICE, LUNGS)
    shown.picture.save(OUT / "seg-250-columns-fractional.png")
    assert shown.labels == ("Right lung", "Left lung")
    check_painted(shown, source, SLICE, LUNGS)
    assert shown.complaints == ()


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


def check_outlined(shown: Shown, source: Source, key: str, shape: Shape) -> None:
    """The slice where *shape* is largest is shown, with a line around it."""
    mask = source.mask(shape)
    index = int(np.argmax(mask.sum(axis=(1, 2))))
    assert shown.position == source.position(source.places[index]), key
    grid = shown.picture.grid(source.places[index], source.columns)
    drawn = np.any([shown.picture.coloured(line) for line in LINES], axis=0)
    assert grid.share_of_edge(drawn, mask[index]) > 0.9, key


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
        check_outlined(shown, source, segment.key, shape)
        assert f"Volume: {segment.volume_ml:.2f} ml" in shown.text
    assert second.complaints == ()


@pytest.mark.parametrize("seg", [SegType.BINARY, SegType.NONE])
def test_a_report_on_a_nodule(seg: SegType, study: str, archive: Archive, ohif: Ohif) -> None:
    """Outline, diameter and certainty, with and without a segmentation beside it."""
    source = phantom.axial(study)
    archive.keep(source, phantom.one_nodule(source), phantom.NODULES, Profile(seg=seg))
    with ohif.study(source.study) as viewer:
        viewer.open("SR")
        viewer.wait_for_text("Diameter: ")
        shown = viewer.rest()
    shown.picture.save(OUT / f"sr-nodule-{seg}.png")
    check_outlined(shown, source, "nodule", NODULE)
    for words in ("Lung nodule 1", "Diameter: 21.60 mm", "87.00 %"):
        assert words in shown.text
    assert shown.complaints == ()


def test_a_report_of_nothing_found(study: str, archive: Archive, ohif: Ohif) -> None:
    """Said in words, not shown as black."""
    source = phantom.axial(study)
    archive.keep(source, Findings(), phantom.NODULES, Profile())
    with ohif.study(source.study) as viewer:
        viewer.open("SR")
        viewer.wait_for_text("No lung nodule")
        shown = viewer.rest()
    shown.picture.save(OUT / "sr-nothing.png")
    assert "No lung nodule found" in shown.text


def test_a_parametric_map(study: str, archive: Archive, ohif: Ohif) -> None:
    """Values are coloured where they are."""
    source = phantom.axial(study)
    archive.keep(source, phantom.likelihood(source), phantom.MAPPED, Profile(parametric_map=True))
    with ohif.study(source.study) as viewer:
        viewer.open("PMAP|PM|OT")
        viewer.scroll_to(source.position(SLICE))
        shown = viewer.rest()
    shown.picture.save(OUT / "pm.png")
    inside = shown.picture.pixels[50:-50, 50:-50]
    assert (np.ptp(inside, axis=-1) > 40).sum() > 500  # coloured over the grey of the CT


def page() -> np.ndarray:
    """A page (rows, columns, 3) with one red corner and one violet side: no mirror image of itself."""
    pixels = np.full((400, 600, 3), 40, np.uint8)
    pixels[20:120, 30:230] = phantom.COLOURS["right-lung"]
    pixels[150:380, 450:560] = phantom.COLOURS["left-lung"]
    return pixels


def test_a_secondary_capture(study: str, archive: Archive, ohif: Ohif) -> None:
    """Pages are a series of their own, in true colours, the right way round."""
    source = phantom.axial(study)
    pictures = Pictures(pages=(page(),))
    archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile(), pictures)
    with ohif.study(source.study) as viewer:
        opened = viewer.rest()
        viewer.open("OT")
        shown = viewer.rest(lambda picture: painted(picture, LUNGS))
    shown.picture.save(OUT / "sc.png")
    opened.picture.grid(source.places[-1], source.columns)  # the study opens with the CT, not with our pages
    assert painted(shown.picture, LUNGS)
    columns = {key: np.nonzero(shown.picture.coloured(phantom.COLOURS[key]))[1].mean() for key in LUNGS}
    assert columns["right-lung"] < columns["left-lung"]  # as on the page


def test_a_printed_report(study: str, archive: Archive, ohif: Ohif) -> None:
    """Said in words, not shown as black."""
    source = phantom.axial(study)
    pictures = Pictures(report=phantom.pdf())
    archive.keep(source, phantom.organs(source), phantom.ORGANS, Profile(secondary_capture=False, pdf=True), pictures)
    with ohif.study(source.study) as viewer:
        viewer.open("DOC")
        shown = viewer.rest()
    shown.picture.save(OUT / "pdf.png")
    assert not any("40" in one[:3] for one in shown.complaints)


def test_presentation_states_and_key_images_do_no_harm(study: str, archive: Archive, ohif: Ohif) -> None:
    """OHIF draws neither; the CT opens as ever, and the segmentation beside them is painted."""
    source = phantom.axial(study)
    profile = Profile(presentation_state=True, key_images=True)
    made = archive.keep(source, phantom.organs(source), phantom.ORGANS, profile)
    assert {"gsps", "kos"} <= {str(one.role) for one in made}
    with ohif.study(source.study) as viewer:
        opened = viewer.rest()
    opened.picture.grid(source.places[-1], source.columns)
    shown = show_seg(ohif, source, SLICE, LUNGS)
    check_painted(shown, source, SLICE, LUNGS)
    assert shown.complaints == ()
