"""Overlay pictures: left is left, millimetres are millimetres, and the warning is always there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nrrd
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.contract import Card, Code, Detection, Findings, Segment, SegmentKind, Volume
from node.dicom.reader import read_series
from node.pictures import drawing, overlays, render_overlays

LUNG = Code(value="39607008", scheme="SCT", meaning="Lung")
RED, BLUE, YELLOW = (255, 0, 0), (0, 0, 255), (255, 255, 0)
SHAPE = (20, 40, 60)  # (z, y, x)


def kind(key: str, colour: tuple[int, int, int]) -> SegmentKind:
    """A kind of lung in a pure colour."""
    return SegmentKind(key=key, label=key.replace("-", " ").capitalize(), category=LUNG, type=LUNG, colour=colour)


LUNGS = (kind("right-lung", RED), kind("left-lung", BLUE))
CARD = Card(
    name="ct-lungs", title="Lungs", version="1.0.0", kind="segmentation", purpose="test", modality="CT",
    segments=(*LUNGS, kind("nodule", YELLOW)), sites=LUNGS, limits=(), figures=(), window=(-600, 1500),
)  # fmt: skip


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be written into the pictures, which stay without text."""
    written: list[str] = []
    for module in (drawing, overlays):
        monkeypatch.setattr(module, "write", lambda _image, _place, text, *_: written.append(text))
    return written


@pytest.fixture
def volume() -> Volume:
    """A patient lying along the axes: 5 x 3 x 2 mm."""
    affine = np.array([[0, 0, 2.0, -60], [0, 3.0, 0, -60], [5.0, 0, 0, 100], [0, 0, 0, 1]])
    voxels = np.full(SHAPE, -800, dtype=np.float32)
    return Volume(voxels=voxels, affine=affine)


def box(z: slice, y: slice, x: slice) -> NDArray[np.bool_]:
    """A mask with one box filled."""
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[z, y, x] = True
    return mask


def segment(key: str, mask: NDArray[np.bool_]) -> Segment:
    """A segment of some volume."""
    return Segment(key=key, mask=mask, volume_ml=12.0)


def nodule(mask: NDArray[np.bool_], volume: Volume, diameter: float = 8.0) -> Detection:
    """A detection at the middle of its mask."""
    index = np.argwhere(mask).mean(axis=0)
    centre = volume.to_patient((float(index[0]), float(index[1]), float(index[2])))
    return Detection(
        key="nodule", mask=mask, centre_mm=centre, diameter_mm=diameter, volume_ml=0.3, score=0.8, site="left-lung"
    )


@pytest.fixture
def lungs(volume: Volume) -> Findings:
    """The right lung low in front, the left one high at the back, both unmistakable."""
    return Findings(
        segments=(
            segment("right-lung", box(slice(3, 9), slice(5, 20), slice(5, 25))),
            segment("left-lung", box(slice(8, 17), slice(18, 35), slice(35, 55))),
        )
    )


def drawn(path: Path, colour: tuple[int, int, int]) -> NDArray[np.intp]:
    """Where (rows, columns) the picture, its caption aside, has exactly this colour."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return np.argwhere((pixels[: -3 * 30 - 10] == colour).all(axis=-1))


def test_three_planes_are_written_wide_enough_to_read(volume: Volume, lungs: Findings, tmp_path: Path) -> None:
    """Axial, coronal, sagittal, each at least 768 pixels wide, in the order of the list."""
    made = render_overlays(volume, lungs, CARD, tmp_path)
    assert [path.name for path in made] == ["axial.png", "coronal.png", "sagittal.png"]
    for path in made:
        with Image.open(path) as image:
            assert image.width >= 768 and image.height >= 300


def test_right_is_left_and_head_is_up(volume: Volume, tmp_path: Path, words: list[str]) -> None:
    """Radiological convention, with a mark at the patient's right, front and head."""
    mark = Findings(segments=(segment("right-lung", box(slice(17, 19), slice(2, 6), slice(3, 9))),))
    axial, coronal, sagittal = (drawn(path, RED) for path in render_overlays(volume, mark, CARD, tmp_path))
    assert axial[:, 1].max() < 768 / 4  # patient's right: left in the image
    assert coronal[:, 1].max() < 768 / 4
    assert axial[:, 0].max() < axial[:, 0].min() + 200 and axial[:, 0].max() < 300  # front: top
    assert coronal[:, 0].max() < 200  # head: top
    assert sagittal[:, 0].max() < 200
    assert sagittal[:, 1].max() < 768 / 4  # front: left in the image


def test_outlines_keep_their_proportions_in_millimetres(
    volume: Volume, tmp_path: Path, words: list[str]
) -> None:
    """A cube of 30 mm is drawn as a square in each plane, though voxels are 5 x 3 x 2 mm."""
    cube = Findings(segments=(segment("left-lung", box(slice(7, 13), slice(15, 25), slice(20, 35))),))
    for path in render_overlays(volume, cube, CARD, tmp_path):
        height, width = np.ptp(drawn(path, BLUE), axis=0) + 1
        assert height == pytest.approx(width, abs=3)
        assert 100 < width < 300


def test_outlines_are_lines_and_not_blobs(
    volume: Volume, lungs: Findings, tmp_path: Path, words: list[str]
) -> None:
    """What lies inside stays visible; the second is dashed, so that colour is not the only sign."""
    (axial, *_) = render_overlays(volume, lungs, CARD, tmp_path)
    shares = []
    for colour in (RED, BLUE):
        height, width = np.ptp(drawn(axial, colour), axis=0) + 1
        shares.append(len(drawn(axial, colour)) / (2 * (height + width)))
    assert 2.5 < shares[0] < 3.5  # pixels wide
    assert 0.3 * shares[0] < shares[1] < 0.7 * shares[0]


def test_the_same_findings_make_the_same_bytes(volume: Volume, lungs: Findings, tmp_path: Path) -> None:
    """A rerun of the same work is the same picture."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    first, second = (
        [path.read_bytes() for path in render_overlays(volume, lungs, CARD, folder)] for folder in folders
    )
    assert first == second


def test_each_of_the_first_five_detections_has_a_picture(volume: Volume, tmp_path: Path) -> None:
    """Six found, five drawn, the outline in the middle of each crop."""
    masks = [box(slice(5, 7), slice(18, 21), slice(20 + 3 * n, 22 + 3 * n)) for n in range(6)]
    made = render_overlays(volume, Findings(detections=tuple(nodule(m, volume) for m in masks)), CARD, tmp_path)
    assert [path.name for path in made[3:]] == [f"detection-{n}.png" for n in range(1, 6)]
    assert len(drawn(made[3], YELLOW)) > 50


def test_a_detection_smaller_than_a_pixel_is_ringed(tmp_path: Path, words: list[str]) -> None:
    """Nothing that was found goes undrawn where a large slice is made small."""
    large = Volume(voxels=np.zeros((3, 2000, 2000), dtype=np.float32), affine=np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    mask = np.zeros((3, 2000, 2000), dtype=np.bool_)
    mask[1, 1001, 1001] = True
    (axial, *_) = render_overlays(large, Findings(detections=(nodule(mask, large, 1.0),)), CARD, tmp_path)
    assert 30 < len(drawn(axial, YELLOW)) < 200


def test_a_long_legend_is_cut_and_says_so(volume: Volume, tmp_path: Path, words: list[str]) -> None:
    """Forty segments: some lines of them, then how many more."""
    kinds = tuple(kind(f"organ-of-some-length-{n}", (5 * n, 255 - 5 * n, 99)) for n in range(40))
    card = replace(CARD, segments=kinds)
    masks = [box(slice(5, 15), slice(n, n + 1), slice(5, 55)) for n in range(40)]
    found = Findings(segments=tuple(segment(k.key, m) for k, m in zip(kinds, masks, strict=True)))
    made = render_overlays(volume, found, card, tmp_path)
    more = [text for text in words if text.endswith(" more")]
    assert len(more) == len(made)
    shown = sum("organ" in text.lower() for text in words)
    assert shown + sum(int(text.split()[1]) for text in more) == 40 * len(made)


def test_planes_go_through_the_largest_detection(
    volume: Volume, tmp_path: Path, words: list[str]
) -> None:
    """The caption says which slice is shown."""
    small = nodule(box(slice(3, 4), slice(5, 7), slice(5, 7)), volume, diameter=4)
    large = nodule(box(slice(14, 15), slice(30, 33), slice(50, 53)), volume, diameter=9)
    render_overlays(volume, Findings(detections=(small, large)), CARD, tmp_path)
    assert "axial 15 / 20" in words
    assert {"1 Nodule, left lung: 4.0 mm, score 0.80", "2 Nodule, left lung: 9.0 mm, score 0.80"} <= set(words)


def test_every_picture_says_what_it_is(
    volume: Volume, lungs: Findings, tmp_path: Path, words: list[str]
) -> None:
    """Model and version, the warning, letters, a scale, and what the colours mean."""
    made = render_overlays(volume, lungs, CARD, tmp_path)
    assert words.count("AI result - not for clinical use") == words.count("ct-lungs 1.0.0") == len(made)
    assert {"R", "L", "A", "P", "H", "F", "20 mm", "a Right lung: 12.0 mL", "b Left lung: 12.0 mL"} <= set(words)
    assert words.count("No nodule found") == len(made) and {"a", "b"} <= set(words)


def test_an_oblique_volume_has_double_letters(
    volume: Volume, tmp_path: Path, words: list[str]
) -> None:
    """Nobody takes it for a true axial plane."""
    c, s = np.cos(np.radians(25)), np.sin(np.radians(25))
    turned = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    render_overlays(replace(volume, affine=turned @ volume.affine), Findings(), CARD, tmp_path)
    assert {"LP", "RA", "AL", "PR"} <= set(words)


def test_nothing_found_is_drawn_too(volume: Volume, tmp_path: Path) -> None:
    """The middle of the volume, without outlines."""
    made = render_overlays(volume, Findings(), CARD, tmp_path)
    assert len(made) == 3
    assert not any(len(drawn(path, colour)) for path in made for colour in (RED, BLUE, YELLOW))


@pytest.mark.parametrize("value", [0.0, 700.0])
def test_an_even_volume_of_another_modality_is_drawn(volume: Volume, tmp_path: Path, value: float) -> None:
    """No range of values to stretch."""
    even = replace(volume, voxels=np.full(SHAPE, value, dtype=np.float32), modality="MR")
    assert len(render_overlays(even, Findings(), CARD, tmp_path)) == 3


@pytest.mark.parametrize("shape", [(3, 512, 512), (400, 30, 40), (3, 3, 3)])
def test_odd_proportions_are_drawn_within_bounds(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """Three slices, a long thin limb, a few voxels: never a picture that no screen holds."""
    odd = Volume(voxels=np.zeros(shape, dtype=np.float32), affine=np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
    mask = np.zeros(shape, dtype=np.bool_)
    mask[1, 1, 1] = True
    found = Findings(detections=(nodule(mask, odd),))
    for path in render_overlays(odd, found, CARD, tmp_path):
        with Image.open(path) as image:
            assert 768 <= image.width <= 1536 and 240 <= image.height <= 1800


def test_a_human_left_lung_is_on_the_right_of_the_picture(
    data_dir: Path, tmp_path: Path, words: list[str]
) -> None:
    """On a real chest the outlines follow the lungs: dark within, on the proper sides."""
    case = data_dir / "ct-chest-lung1-001"
    volume = read_series(sorted((case / "dicom").glob("*.dcm"))).volume
    labels = nrrd.read(str(case / "label-lungs.nrrd"))[0].T
    found = Findings(segments=(segment("left-lung", labels == 1), segment("right-lung", labels == 2)))
    (axial, *_) = render_overlays(volume, found, CARD, tmp_path)
    left, right = drawn(axial, BLUE), drawn(axial, RED)
    assert left[:, 1].min() > right[:, 1].max()
    with Image.open(axial) as image:
        grey = np.asarray(image.convert("L"), dtype=float)
    for places in (left, right):
        row, column = places.mean(axis=0).astype(int)
        air, heart = grey[row - 20 : row + 20, column - 20 : column + 20].mean(), grey[320, 430]
        assert air < 120 < heart
