"""Pages of the Secondary Capture: read at half their size, by those who see few colours too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from models import catalogue
from models.contract import Card, Detection, Findings, Measures, Segment, Volume
from models.phantom import Phantom, thorax_phantom
from node.dicom.geometry import Stack, canonical, canonical_affine
from node.dicom.reader import SourceSeries
from node.pictures import drawing, load_pictures, pages, render_pages, words
from tests.unit.node.dicom.conftest import LUNG_CARD, NODULE_CARD

CARD = replace(NODULE_CARD, segments=(*NODULE_CARD.segments, *LUNG_CARD.segments), limits=("for research",))
BLUE, ORANGE, YELLOW = (60, 160, 250), (250, 120, 60), (255, 220, 0)
SHAPE = (20, 40, 60)  # (z, y, x)
AFFINE = np.array([[0, 0, 2.0, -60], [0, 3.0, 0, -60], [5.0, 0, 0, 100], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Written:
    """One text on a page."""

    text: str
    size: int
    colour: tuple[int, int, int]


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[Written]:
    """What is written on pages, in turn; it is drawn too."""
    written: list[Written] = []
    write = drawing.write

    def record(
        image: Image.Image, place: tuple[float, float], text: str, anchor: str,
        colour: tuple[int, int, int] = drawing.INK, size: int = drawing.FONT,
    ) -> None:  # fmt: skip
        written.append(Written(text, size, colour))
        write(image, place, text, anchor, colour, size)

    for module in (drawing, pages):
        monkeypatch.setattr(module, "write", record)
    return written


@pytest.fixture
def volume() -> Volume:
    """A patient lying along the axes: 5 x 3 x 2 mm."""
    return Volume(voxels=np.full(SHAPE, -800, dtype=np.float32), affine=AFFINE)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """The thorax, coarse."""
    return thorax_phantom(shape=(60, 128, 128), spacing=(5.0, 2.8, 2.8))


def box(z: slice, y: slice, x: slice, shape: tuple[int, ...] = SHAPE) -> NDArray[np.bool_]:
    """A mask with one box filled."""
    mask = np.zeros(shape, dtype=np.bool_)
    mask[z, y, x] = True
    return mask


def nodule(mask: NDArray[np.bool_], volume: Volume, score: float = 0.8, **changes: object) -> Detection:
    """A detection at the middle of its mask."""
    z, y, x = np.argwhere(mask).mean(axis=0)
    found = Detection(
        key="nodule", mask=mask, centre_mm=volume.to_patient((z, y, x)), diameter_mm=8.0, volume_ml=0.31, score=score,
        site="left-lung",
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


def said(texts: list[Written]) -> set[str]:
    """All texts."""
    return {one.text for one in texts}


def shown(path: Path, colour: tuple[int, int, int]) -> NDArray[np.intp]:
    """Where (rows, columns) the large plane of the first page has exactly this colour."""
    with Image.open(path) as image:
        pixels = np.asarray(image)[118:638, 10:602]
    return np.argwhere((pixels == colour).all(axis=-1))


def test_a_result_is_one_page_and_one_for_each_detection(volume: Volume, tmp_path: Path, texts: list[Written]) -> None:
    """Seven found: the five of the highest score have pages, in that order, under their own numbers."""
    masks = [box(slice(5, 7), slice(18, 21), slice(5 + 5 * n, 8 + 5 * n)) for n in range(7)]
    scores = [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.6]
    found = Findings(detections=tuple(nodule(m, volume, s) for m, s in zip(masks, scores, strict=True)))
    made = render_pages(volume, found, CARD, tmp_path)
    assert [path.name for path in made] == [f"page-{n}.png" for n in range(1, 7)]
    rows = [one.text for one in texts if one.text.endswith("Lung nodule, left lung")]
    assert [row[0] for row in rows] == [*"2467351", *"24673"]
    assert {f"page {n} of 6" for n in range(1, 7)} <= said(texts)


def test_every_page_is_rgb_of_one_size_and_says_what_it_is(
    volume: Volume, tmp_path: Path, texts: list[Written]
) -> None:
    """Model, version and the warning, on each; nothing is smaller than half of it can be read."""
    found = Findings(detections=(nodule(box(slice(5, 7), slice(18, 21), slice(5, 8)), volume),))
    made = render_pages(volume, found, CARD, tmp_path)
    assert [page.shape for page in load_pictures(tmp_path).pages] == [(1024, 1024, 3)] * len(made)
    warning = "AI result - not for clinical use. Research use only."
    for text in (warning, "Lung nodule detection 1.2.0 (ct-lung-nodule)"):
        assert [one.text for one in texts].count(text) == len(made) == 2
    assert min(one.size for one in texts) >= 22


def test_the_page_shows_planes_places_window_letters_and_scale(
    volume: Volume, tmp_path: Path, texts: list[Written]
) -> None:
    """Without a source there are no image numbers; places are distances from the patient's origin."""
    found = Findings(detections=(nodule(box(slice(5, 6), slice(18, 19), slice(50, 51)), volume),))
    render_pages(volume, found, replace(CARD, window=(-600, 1500)), tmp_path)
    assert {"axial, H 125.0 mm    W 1500 L -600", "coronal, A 6.0 mm", "sagittal, L 40.0 mm"} <= said(texts)
    assert {"R", "L", "A", "P", "H", "F", "20 mm"} <= said(texts)
    assert "enlarged    W 1500 L -600" in said(texts)


def test_numbers_are_those_of_the_table(volume: Volume, tmp_path: Path, texts: list[Written]) -> None:
    """Volume, diameter and score of detections, volumes of segments, and what is not there."""
    mask = box(slice(5, 7), slice(18, 21), slice(40, 43))
    lung = Segment(key="left-lung", mask=box(slice(3, 15), slice(5, 30), slice(35, 55)), volume_ml=2165.4)
    render_pages(volume, Findings(segments=(lung,), detections=(nodule(mask, volume),)), CARD, tmp_path)
    assert {"0.31 mL", "8.0 mm", "0.80", "2165 mL", "a  Left lung", "No right lung found"} <= said(texts)


def test_nothing_found_is_said_plainly(volume: Volume, tmp_path: Path, texts: list[Written]) -> None:
    """Three planes, one sentence, the limits."""
    card = replace(NODULE_CARD, limits=("An empty result proves nothing",))
    made = render_pages(volume, Findings(), card, tmp_path)
    assert len(made) == 1
    assert {"No lung nodule found by Lung nodule detection 1.2.0", "An empty result proves nothing."} <= said(texts)
    assert all(len(shown(made[0], colour)) == 0 for colour in (BLUE, ORANGE, YELLOW))


def test_a_left_structure_is_on_the_right_of_the_page(phantom: Phantom, tmp_path: Path) -> None:
    """On the phantom, whose heart lies left: outlines in the card's colours on the proper sides."""
    volume = Volume(voxels=phantom.voxels, affine=phantom.affine)
    found = Findings(
        segments=(
            Segment(key="left-lung", mask=phantom.left_lung, volume_ml=1.0),
            Segment(key="right-lung", mask=phantom.right_lung, volume_ml=1.0),
        )
    )
    (page,) = render_pages(volume, found, CARD, tmp_path)
    left, right = shown(page, BLUE), shown(page, ORANGE)
    assert len(left) > 500 and len(right) > 200
    assert left[:, 1].min() > 290 > right[:, 1].max()


@pytest.mark.parametrize(
    "orientation", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)]
)
def test_axes_lie_on_what_was_measured(
    orientation: tuple[int, ...], tmp_path: Path, texts: list[Written]
) -> None:
    """Ends are counted on the source's slices, however these lie in the patient; the page finds them in the volume."""
    source, mask, found = measured(orientation)
    turn = canonical(source.stack.affine)
    voxels = np.ascontiguousarray(turn.apply(np.full(source.stack.shape, -800, dtype=np.float32)))
    volume = Volume(
        voxels=voxels.astype(np.float32), affine=canonical_affine(source.stack.affine, source.stack.shape, turn)
    )
    inside = np.ascontiguousarray(turn.apply(mask)).astype(np.bool_)
    detection = nodule(inside, volume, measures=found)
    ends = drawing.axes_of(detection, volume, source.stack)
    assert ends is not None
    low, high = np.argwhere(inside).min(axis=0) - 0.5, np.argwhere(inside).max(axis=0) + 0.5
    assert (ends >= low - 1e-6).all() and (ends <= high + 1e-6).all()
    plane = drawing.around(volume, detection, ends)
    assert plane.view.cut == int(np.argmin(np.ptp(ends, axis=0)))
    assert inside.take(plane.index, axis=plane.view.cut).any()
    render_pages(volume, Findings(detections=(detection,)), CARD, tmp_path, source)
    assert {"12.0 x 4.0 mm", "enlarged, long and short axis    W 400 L 40"} <= said(texts)
    assert "Values inside: mean -20 HU, standard deviation 7 HU." in said(texts)
    assert any("image 105," in one.text for one in texts)
    with Image.open(tmp_path / "page-2.png") as image:
        crop = np.asarray(image)[118:618, 514:1014].astype(int)
    lines = (crop == drawing.INK).all(axis=-1)[100:400, 100:400]  # letters and scale aside
    rows, columns = np.ptp(np.argwhere(lines), axis=0) * 60.0 / 500  # mm: the crop is 60 mm wide
    assert sorted((rows, columns)) == pytest.approx([4, 12], abs=1.0)


def measured(orientation: tuple[int, ...]) -> tuple[SourceSeries, NDArray[np.bool_], Measures]:
    """A series of 10 slices of 2 mm, and a region of 12 x 4 mm on the sixth."""
    normal = np.cross(orientation[:3], orientation[3:])
    stack = Stack(
        orientation=tuple(float(c) for c in orientation), positions=np.outer(np.arange(10) * 2.0, normal),
        pixel_spacing=(1.0, 2.0), rows=64, columns=40,
    )  # fmt: skip
    headers = []
    for number in range(10):
        header = Dataset()
        header.InstanceNumber = 100 + number
        headers.append(header)
    mask = box(slice(5, 6), slice(20, 24), slice(10, 16), stack.shape)
    found = Measures(
        volume_ml=0.2, long_mm=12.0, short_mm=4.0, long_ends=((10.0, 22.0), (16.0, 22.0)),
        short_ends=((13.0, 20.0), (13.0, 24.0)), slice=5, mean=-20.0, deviation=7.0, least=-40.0, greatest=0.0,
    )  # fmt: skip
    source = SourceSeries(headers=tuple(headers), paths=(Path("x"),) * 10, stack=stack, remarks=("1 image left out",))
    return source, mask, found


def test_remarks_of_source_and_findings_stand_before_the_limits(
    volume: Volume, tmp_path: Path, texts: list[Written]
) -> None:
    """As sentences, none twice."""
    source = measured((1, 0, 0, 0, 1, 0))[0]
    render_pages(volume, Findings(remarks=("cut below", "1 image left out")), CARD, tmp_path, source)
    order = [one.text for one in texts if one.text in ("1 image left out.", "Cut below.", "For research.")]
    assert order == ["1 image left out.", "Cut below.", "For research."]


def test_images_without_numbers_of_their_own_are_not_numbered(
    volume: Volume, tmp_path: Path, texts: list[Written]
) -> None:
    """Numbers that two images share would lead to the wrong one."""
    source = measured((1, 0, 0, 0, 1, 0))[0]
    source.headers[3].InstanceNumber = 100
    render_pages(volume, Findings(), CARD, tmp_path, source)
    assert not any("image 1" in one.text for one in texts if "left out" not in one.text)


def test_frames_are_called_frames(volume: Volume, tmp_path: Path, texts: list[Written]) -> None:
    """Of one multi-frame image all have one number; and a plane between two of them has no name."""
    source = replace(measured((1, 0, 0, 0, 1, 0))[0], frames=tuple(range(21, 31)))
    flat = replace(volume, affine=np.array([[0, 0, 2.0, 0], [0, 3.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]]))
    render_pages(flat, Findings(), CARD, tmp_path, source)
    assert any(one.text.startswith("axial, frame 26, H 10.0 mm") for one in texts)
    texts.clear()
    found = Findings(detections=(nodule(box(slice(11, 12), slice(18, 21), slice(5, 8)), flat),))
    render_pages(flat, found, CARD, tmp_path, source)
    assert any(one.text.startswith("axial, H 11.0 mm") for one in texts)


def test_twenty_five_segments_stay_readable(volume: Volume, tmp_path: Path, texts: list[Written]) -> None:
    """Two columns, each name cut to its own, then how many more; each in three planes under a letter of its own."""
    name = "of a name that is longer than half a page is wide"
    kinds = tuple(replace(LUNG_CARD.segments[0], key=f"s{n}", label=f"Structure {n} {name}") for n in range(25))
    found = tuple(
        Segment(key=f"s{n}", mask=box(slice(2, 18), slice(n, n + 4), slice(2 * n, 2 * n + 5)), volume_ml=3.0 * n + 1)
        for n in range(25)
    )
    render_pages(volume, Findings(segments=found), replace(CARD, segments=kinds), tmp_path)
    rows = [one for one in texts if "  Structure" in one.text]
    assert len(rows) == 15 and "and 10 more, named in the report" in said(texts)
    assert all(one.text.endswith("...") for one in rows)
    assert set("abcdefghijklmnopqrstuvwxy") & said(texts) >= set("abcdefghijklmn")


def test_long_limits_end_with_where_the_rest_is(volume: Volume, tmp_path: Path, texts: list[Written]) -> None:
    """No sentence is cut in its middle."""
    card = replace(CARD, limits=tuple(f"Limit {n} is a sentence of some length, as cards have them" for n in range(30)))
    render_pages(volume, Findings(), card, tmp_path)
    whole = [one.text for one in texts if one.text.startswith("Limit")]
    (rest,) = [one.text for one in texts if one.text.startswith("and ")]
    assert rest == f"and {30 - len(whole)} more: see the printed report and the card of ct-lung-nodule"
    assert all(text.endswith("have them.") for text in whole)


def test_the_same_findings_make_the_same_bytes(volume: Volume, tmp_path: Path) -> None:
    """A rerun of the same work is the same page."""
    found = Findings(detections=(nodule(box(slice(5, 7), slice(18, 21), slice(5, 8)), volume),))
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append([path.read_bytes() for path in render_pages(volume, found, CARD, tmp_path / name)])
    assert made[0] == made[1]


@pytest.mark.parametrize(("shape", "spacing"), [
    ((3, 3, 3), (1.0, 1.0, 1.0)), ((3, 256, 256), (7.0, 0.5, 0.5)), ((400, 30, 40), (1.0, 1.0, 1.0)),
    ((40, 40, 3), (0.3, 0.3, 10.0)),
])  # fmt: skip
def test_odd_volumes_fit_their_page(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], tmp_path: Path
) -> None:
    """A few voxels, three thick slices, a long limb, a sagittal slab."""
    affine = np.diag([*spacing, 1.0])[[2, 1, 0, 3]]
    odd = Volume(voxels=np.zeros(shape, dtype=np.float32), affine=affine, modality="MR")
    found = Findings(detections=(nodule(box(slice(1, 2), slice(1, 2), slice(1, 2), shape), odd),))
    render_pages(odd, found, CARD, tmp_path)
    for page in load_pictures(tmp_path).pages:
        assert page.shape == (1024, 1024, 3)
        assert (page == YELLOW).all(axis=-1).sum() > 20


def test_an_oblique_volume_says_so(volume: Volume, tmp_path: Path, texts: list[Written]) -> None:
    """Its letters are double, and its places are along its own normals."""
    c, s = np.cos(np.radians(25)), np.sin(np.radians(25))
    turned = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1.0]])
    render_pages(replace(volume, affine=turned @ volume.affine), Findings(), CARD, tmp_path)
    assert {"HA", "FP"} <= said(texts)
    assert any(one.text.startswith("axial, HA ") for one in texts)


def test_windows_are_the_card_s_then_the_modality_s(volume: Volume) -> None:
    """Lung for lung models; soft tissue for other CT; of other modalities nearly all values."""
    assert drawing.window_of(volume, catalogue.card("ct-lung")) == (-600, 1500)
    assert drawing.window_of(volume, CARD) == (40, 400)
    values = np.random.default_rng(1).uniform(0, 1000, SHAPE).astype(np.float32)
    values[0, 0, 0] = 1e9
    centre, width = drawing.window_of(replace(volume, voxels=values, modality="PT"), CARD)
    assert centre == pytest.approx(500, abs=20) and width == pytest.approx(980, abs=20)


def test_pages_are_loaded_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Ten comes after nine."""
    for number in (1, 2, 10, 9):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / f"page-{number}.png")
    assert [int(page[0, 0, 0]) for page in load_pictures(tmp_path).pages] == [1, 2, 9, 10]
    assert load_pictures(tmp_path).report == b""


def test_signs_go_on_after_z() -> None:
    """Like columns of a sheet."""
    assert [words.letter(n) for n in (0, 25, 26, 51, 52)] == ["a", "z", "aa", "az", "ba"]


# -- colours

#: How a colour looks to those who lack one kind of cone: linear RGB to linear RGB (Machado et al. 2009, severity 1).
LACKING = {
    "none": np.eye(3),
    "long waves": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "middle waves": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "short waves": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear(colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """SRGB (0 to 255) as linear light."""
    share = np.array(colour) / 255
    return np.asarray(np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4))


def lab(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light as CIELab, in which distances are those that eyes see (D65)."""
    to_xyz = np.array([[0.4124564, 0.3575761, 0.180], [0.2126729, 0.7151522, 0.072], [0.019334, 0.119192, 0.950]])
    share = to_xyz @ np.clip(light, 0, 1) / np.array([0.95047, 1, 1.08883])
    x, y, z = np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def drawn_colours() -> dict[str, tuple[int, int, int]]:
    """The colour of everything that a model of the catalogue draws."""
    return {f"{card.name} {kind.key}": kind.colour for card in all_cards() for kind in card.segments}


def all_cards() -> tuple[Card, ...]:
    """The cards of the catalogue."""
    return catalogue.cards()


@pytest.mark.parametrize("lacking", LACKING)
def test_colours_are_told_apart_by_all_eyes(lacking: str) -> None:
    """Also where the results of two models lie over each other; a difference of 2 is just seen, 15 at once."""
    colours = list(drawn_colours().items())
    assert len(colours) >= 3
    for place, (name, colour) in enumerate(colours):
        for other, second in colours[place + 1 :]:
            away = np.linalg.norm(lab(LACKING[lacking] @ linear(colour)) - lab(LACKING[lacking] @ linear(second)))
            assert away > 15, f"{name} and {other} without {lacking}: {away:.0f}"


@pytest.mark.parametrize("lacking", LACKING)
def test_colours_stand_out_from_their_dark_edge(lacking: str) -> None:
    """Every line has one, so that no grey of the image hides it."""
    for name, colour in drawn_colours().items():
        light = np.clip(LACKING[lacking] @ linear(colour), 0, 1) @ np.array([0.2126, 0.7152, 0.0722])
        assert (light + 0.05) / 0.05 > 3, name  # the contrast that WCAG asks of graphics
