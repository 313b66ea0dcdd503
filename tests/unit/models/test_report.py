"""What a report says: kept and read back, worst first, one version beside the other, pictures inside."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.contract import Volume
from models.evaluate import results, summary
from models.evaluate.metrics import IGNORED, NOWHERE
from models.evaluate.pictures import FOUND, REFERENCE, Fault, choose, draw, worst_slices
from models.evaluate.report import albums, html, markdown
from models.evaluate.results import Agreement, Lesion, Passing, Report, Run
from models.evaluate.scores import Mark


def lung(dice: float, error: float = -0.02, structure: str = "left-lung") -> Agreement:
    """An agreement of that Dice."""
    return Agreement(
        structure=structure, dice=dice, iou=dice / (2 - dice), hd95_mm=3.0, surface_mm=None, found_ml=980.0,
        reference_ml=1000.0, volume_error=error,
    )  # fmt: skip


def run(case: str, variant: str = "", *, model: str = "ct-lung", **values: object) -> Run:
    """A run of version 1."""
    return Run(model=model, version="1.0.0", case=case, variant=variant, **values)  # type: ignore[arg-type]


def nodules(case: str, variant: str, lesions: int, *struck: int) -> Run:
    """A detector's run whose marks struck those objects."""
    marks = tuple(Mark(score=0.9, diameter_mm=9.0, object=one) for one in struck)
    labelled = tuple(Lesion(kind="solid" if variant else "labelled", diameter_mm=8.0) for _ in range(lesions))
    return run(case, variant, model="ct-lung-nodule", marks=marks, lesions=labelled, drawn=len(struck))


HAND = summary.DRAWN_BY_HAND
RUNS = (
    run(HAND, agreements=(lung(0.96), lung(0.97, structure="right-lung")), seconds=4.0, peak_mb=700.0, drawn=2),
    run(HAND, "7mm", agreements=(lung(0.91, -0.2),), drawn=1),
    run("other", agreements=(lung(0.8, 0.11),), seconds=6.0, drawn=1),
    run("copy", agreements=(lung(0.1, 0.9),), repeats="other", drawn=1),
    run("head", other_body=True, drawn=1),
    run("knee", other_body=True, refused="no | lung"),
    nodules(HAND, "", 0, NOWHERE, IGNORED), nodules("slab", "", 2, 1, 1), nodules("slab", "7mm", 1),
    nodules("slab", "planted-0", 3, 1, 2, NOWHERE), nodules("head", "", 0),
)  # fmt: skip


@pytest.fixture
def report() -> Report:
    """A small evaluation."""
    models = {name: {"version": "1.0.0", "digest": "d"} for name in ("ct-lung", "ct-lung-nodule")}
    return Report(machine="a machine", models=models, runs=RUNS)


def test_a_report_is_read_back_as_it_was_written(report: Report, tmp_path: Path) -> None:
    """Nothing is lost between None and nothing; another file is refused."""
    results.write(report, tmp_path / "report.json")
    assert results.read(tmp_path / "report.json") == report
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="no report"):
        results.read(tmp_path / "other.json")


def test_the_figures_keep_apart_what_is_not_the_same(report: Report) -> None:
    """Changed and repeated series, planted nodules and other bodies do not mix with the series as they came."""
    figures = summary.figures(report)
    assert (figures["lung_dice_left"], figures["lung_dice_right"]) == (0.96, 0.97)
    assert (figures["worst_volume_of"], figures["worst_volume_error"]) == ("other left-lung", 0.11)
    assert (figures["nodules_found"], figures["nodules_labelled"]) == (1, 2)
    assert figures["false_marks_per_scan"] == pytest.approx(1 / 3, abs=1e-4)  # the ignored mark counts neither way
    assert (figures["false_alarms_other_body"], figures["series_other_body"]) == (1, 2)
    assert figures["perturbed_dice_least"] == 0.91
    assert figures["perturbed_dice"] == {
        HAND: {"": {"left-lung": 0.96, "right-lung": 0.97}, "7mm": {"left-lung": 0.91}}
    }
    assert figures["perturbed_nodules"] == {"slab": {"7mm": "0 of 1, 0 false"}}
    assert (figures["planted"]["found"], figures["planted"]["labelled"]) == (2, 3)
    assert figures["planted"]["by_kind"]["solid"] == "2 of 3"
    assert figures["seconds"] == {"ct-lung": 6.0}
    assert figures["errors"] == 0
    json.dumps(figures)


def test_what_was_not_measured_is_none(report: Report) -> None:
    """No nought stands for what nobody has tried."""
    figures = summary.figures(replace(report, runs=(RUNS[5],)))
    unknown = ("lung_dice_left", "nodules_found", "false_marks_per_scan", "worst_volume_error", "planted")
    assert [figures[name] for name in unknown] == [None] * 5


def test_the_worst_stands_first_and_a_bar_opens_no_column(report: Report) -> None:
    """The false alarm, then the least Dice."""
    lines = markdown(report).splitlines()
    start = lines.index("## ct-lung: series as they came")
    rows = lines[start + 4 : start + 10]
    assert [row.split(" | ")[0] for row in rows] == ["| head", "| copy", "| other", f"| {HAND}", f"| {HAND}", "| knee"]
    assert len({row.count("|") for row in rows}) == 1
    assert "no / lung" in rows[-1]


def test_planted_nodules_are_told_by_kind_and_size(report: Report) -> None:
    """Two of three solid ones of 8 mm; a model without planted scans has no such table."""
    text = markdown(report)
    assert "| solid | 2 of 3 | 0 of 0 | 0 of 0 |" in text
    assert text.count("planted nodules found") == 1


def test_two_versions_stand_side_by_side_the_greatest_loss_first(report: Report) -> None:
    """What got worse leads; what the earlier one did not have is left out."""
    now = (
        replace(RUNS[0], version="2.0.0", agreements=(lung(0.98), lung(0.95, structure="right-lung"))),
        replace(RUNS[4], version="2.0.0", drawn=0), nodules("slab", "", 2, 1, 2), run("new", agreements=(lung(0.5),)),
    )  # fmt: skip
    lines = markdown(replace(report, runs=now), report).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("## Side by side"))
    rows = [line for line in lines[start + 4 : start + 8] if line]
    assert [row.split(" | ")[-1].strip(" |") for row in rows] == ["-0.0200", "+0.0200", "", "+1"]
    assert "ct-lung 1.0.0 / 2.0.0" in rows[0]
    assert "| 1 of 2, 0 false | 2 of 2, 0 false |" in rows[3]
    assert not any("new" in row for row in rows)
    assert "| worst_volume_error | -0.02 | -0.02 |" in lines  # the earlier one's worst series was not tried now


def fault(case: str, weight: float, variant: str = "", z: int = 3) -> Fault:
    """A fault whose picture is its own."""
    return Fault(
        model="ct-lung", case=case, variant=variant, slice=z, what="1 < 2 cm2", weight=weight,
        png=f"{case}{variant}{z}".encode(),
    )  # fmt: skip


def test_the_page_needs_no_other_file_and_shows_the_worst_slices(report: Report) -> None:
    """Pictures lie in it, worst first, as they came and changed apart; words of others are no markup."""
    faults = [fault("other", 2.0), fault(HAND, 9.0), fault(HAND, 7.0, "7mm"), fault("head", 3.0)]
    first, second = albums(report, faults)
    assert [one.case for one in first.faults] == [HAND, "head", "other"]
    assert [one.variant for one in second.faults] == ["7mm"]
    page = html(report, faults)
    assert page.count('src="data:image/png;base64,') == 4
    assert "1 &lt; 2 cm2" in page
    assert "1 < 2" not in page
    assert page.index("worst slices, series as they came") < page.index("ct-lung: series as they came")


def test_one_run_does_not_fill_the_album_and_no_picture_comes_twice() -> None:
    """Three of one run, the next worst of others, the same bytes once."""
    many = [fault("a", 9.0 - z, z=z) for z in range(5)]
    twin = replace(fault("a", 8.9, z=0), case="b")
    assert [(one.case, one.slice) for one in choose([*many, twin, fault("c", 0.1)], 10)] == [
        ("a", 0), ("a", 1), ("a", 2), ("c", 3),
    ]  # fmt: skip
    assert len(choose(many, 2)) == 2


def test_the_worst_slices_lie_apart() -> None:
    """By the area that differs, at least 10 mm from one to the next; slices that agree are not shown."""
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[2, 0], affine[1, 1], affine[0, 2] = 4.0, 10.0, 10.0
    volume = Volume(voxels=np.zeros((12, 20, 20), np.float32), affine=affine)
    found = np.zeros((12, 20, 20), bool)
    found[2, :3, 0], found[3, :5, 0], found[6, :2, 0], found[11, 0, 0] = True, True, True, True
    nothing = np.zeros_like(found)
    assert worst_slices({"a": found}, {"b": nothing}, volume, 9) == [(3, 5.0), (6, 2.0), (11, 1.0)]
    assert worst_slices({"a": found}, {"a": found}, volume, 9) == []


def test_a_picture_has_both_outlines_where_they_are(thorax: Volume) -> None:
    """Front is up, the patient's left is on the right; the model's outline is drawn on top."""
    reference, found = np.zeros(thorax.voxels.shape, bool), np.zeros(thorax.voxels.shape, bool)
    reference[30, 10:30, 80:120] = True
    found[30, 90:110, 10:40] = True
    png = draw(thorax, 30, {"lung": found}, {"lung": reference}, None)
    picture = np.asarray(Image.open(io.BytesIO(png)))
    scale = picture.shape[0] / 128
    assert picture.shape[0] == picture.shape[1] >= 384
    for colour, middle in ((REFERENCE, (20, 100)), (FOUND, (100, 25))):
        place = np.argwhere((picture == colour).all(axis=-1))
        assert place.mean(axis=0) / scale == pytest.approx(middle, abs=1.5)
    inside = picture[round(100 * scale), round(25 * scale)].astype(int)  # the model alone drew here: tinted
    plain = np.asarray(Image.open(io.BytesIO(draw(thorax, 30, {}, {}, None))))[round(100 * scale), round(25 * scale)]
    agreed = np.asarray(Image.open(io.BytesIO(draw(thorax, 30, {"lung": found}, {"lung": found}, None))))
    assert inside[0] - inside[2] > int(plain[0]) - int(plain[2]) + 30
    assert np.array_equal(agreed[round(100 * scale), round(25 * scale)], plain)
    assert not np.array_equal(png, draw(thorax, 31, {"lung": found}, {"lung": reference}, None))


def passing(case: str, shown: bool | None, admitted: bool, **values: object) -> Passing:
    """What the gate said of a scan."""
    reason = "" if admitted else "this looks like legs"
    return Passing(case=case, shown=shown, admitted=admitted, reason=reason, seconds=0.5, **values)  # type: ignore[arg-type]


def test_the_gate_is_counted_by_what_is_in_view(report: Report, tmp_path: Path) -> None:
    """A chest refused, a leg admitted; of a scan with next to no lung both would be right; wrong ones come first."""
    asked = (
        passing("chest", True, True), passing("chest", True, False, variant="7mm"), passing("head", False, False),
        passing("seen", True, True, learnt=True), passing("legs-1", False, True, generated=True),
        passing("rim", None, False), passing("torn", None, False, error="no file"),
    )  # fmt: skip
    told = replace(report, passings=asked)
    figures = summary.figures(told)
    assert [figures[f"gate_{one}"] for one in ("false_refusals", "with_lung", "false_admissions", "without_lung")] == [
        1, 3, 1, 2,
    ]  # fmt: skip
    page = markdown(told)
    assert figures["errors"] == 1
    assert "| torn |  | next to none | no |  | 0.000 | 0.00 | 0.50 | BROKE: no file |" in page
    assert "| real scans as they came, not trained on | 1 | 0 | 1 | 0 | 1 |" in page
    assert "| the same made harder | 1 | 1 | 0 | 0 | 0 |" in page
    assert "| generated, seeds of their own | 0 | 0 | 1 | 1 | 0 |" in page
    assert page.index("| chest | 7mm | yes | no | WRONG |") < page.index("| chest |  | yes | yes |  |")
    results.write(told, tmp_path / "report.json")
    assert results.read(tmp_path / "report.json") == told
    assert summary.figures(report)["gate_false_refusals"] is None
    assert summary.figures(report)["gate_turns"] is None
    assert "The gate" not in markdown(report)


def test_phases_and_turns_are_counted_right_wrong_and_not_known(report: Report) -> None:
    """Contrast of an unsaid phase is right as either; a scan that was reversed is right where it is found so."""
    sure, other, none = {"left-right": True}, {"left-right": False}, {"left-right": None}
    asked = (
        passing("a", True, True, phase_true="none", phase="none", lies=sure, turned=other),
        passing("b", True, True, phase_true="contrast", phase="venous", lies=none, turned=none),
        passing("c", True, True, phase_true="contrast", phase="none", lies=other, turned=sure),
        passing("d", True, True, phase="venous", lies=sure, turned=none),
        passing("e-1", True, True, generated=True, phase_true="arterial", lies=sure, turned=other),
        passing("e-1", True, True, generated=True, phase_true="arterial", phase="venous", lies=none, variant="turned"),
    )  # fmt: skip
    told = replace(report, passings=asked)
    figures = summary.figures(told)
    assert figures["gate_phases"] == {
        "real": {"right": 2, "wrong": 1, "not_known": 0}, "generated": {"right": 0, "wrong": 1, "not_known": 1},
    }  # fmt: skip
    assert figures["gate_turns"] == {
        "real left-right": {"right": 2, "wrong": 1, "not_known": 1},
        "real left-right, reversed": {"right": 1, "wrong": 1, "not_known": 2},
        "generated left-right": {"right": 1, "wrong": 0, "not_known": 1},
        "generated left-right, reversed": {"right": 1, "wrong": 0, "not_known": 0},
    }
    page = markdown(told)
    assert "| real scans as they came, not trained on | 1 | 1 | 0 | 0 | 2 | 1 | 1 | 0 |" in page
    assert "| real scans as they came, not trained on | left-right | 4 | 2 | 1 | 1 | 4 | 1 | 1 | 2 |" in page
