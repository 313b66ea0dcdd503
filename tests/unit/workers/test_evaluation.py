"""Series through models and beside their reference, from files: the phantom, whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nrrd
import numpy as np
import pytest

from models.evaluate import results
from models.evaluate.metrics import IGNORED
from models.evaluate.pictures import Fault
from models.evaluate.results import Run
from models.phantom import thorax_phantom
from node.dicom.reader import read_series
from node.testing import synthetic_ct, thorax_study, write_series
from workers import evaluate as command
from workers.evaluation import Task, evaluate
from workers.reference_cases import CASES, Case
from workers.storage_order import ORDERS

SHAPE = (60, 128, 128)
THORAX = Case(name="thorax/dicom", lungs="thorax/lungs.nrrd", left=(1,), right=(2,), nodules="thorax/nodules.nrrd")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of test data: the phantom with its labels, and a few slices of nothing."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "thorax" / "dicom").mkdir(parents=True)
    thorax_study(folder / "thorax" / "dicom", shape=SHAPE)
    phantom = thorax_phantom(SHAPE, (5.0, 2.8, 2.8))
    z, y, x = np.indices(SHAPE).reshape(3, -1)
    places = (np.stack([z, y, x], axis=1) @ phantom.affine[:3, :3].T + phantom.affine[:3, 3]).reshape(*SHAPE, 3)
    nodules = np.zeros(SHAPE, np.uint8)
    for ball in phantom.nodules:
        nodules[np.linalg.norm(places - ball.centre_mm, axis=-1) <= ball.diameter_mm / 2] = 1
    for name, label in (("lungs", phantom.left_lung + 2 * phantom.right_lung.astype(np.uint8)), ("nodules", nodules)):
        header = {
            "space": "left-posterior-superior", "space origin": phantom.affine[:3, 3].tolist(),
            "space directions": phantom.affine[:3, [2, 1, 0]].T.tolist(),
        }  # fmt: skip
        nrrd.write(str(folder / "thorax" / f"{name}.nrrd"), label.astype(np.uint8).transpose(2, 1, 0), header)
    (folder / "noise").mkdir()
    write_series(synthetic_ct(), folder / "noise")
    write_series(synthetic_ct(slices=2), folder)
    return folder


@pytest.fixture(scope="module")
def straight(data: Path) -> tuple[list[Run], list[Fault]]:
    """What both models make of the phantom as it is."""
    return evaluate(task(data, models=("ct-lung", "ct-lung-nodule")))


def task(data: Path, case: Case = THORAX, variant: str = "", models: tuple[str, ...] = ("ct-lung",)) -> Task:
    """A task on the processor."""
    return Task(case=case, variant=variant, models=models, data=data, device="cpu")


def test_a_series_is_measured_beside_its_labels(straight: tuple[list[Run], list[Fault]]) -> None:
    """Both lungs, both nodules' fate, time and memory; the worst slices are pictures."""
    (lungs, nodules), faults = straight
    assert [one.structure for one in lungs.agreements] == ["left-lung", "right-lung"]
    assert all(one.dice > 0.93 and abs(one.volume_error or 1.0) < 0.1 for one in lungs.agreements)
    assert all(one.hd95_mm is not None and one.hd95_mm < 12.0 for one in lungs.agreements)
    assert lungs.lesions is None
    assert nodules.lesions is not None
    assert len(nodules.lesions) == 2
    assert nodules.agreements == ()
    assert lungs.seconds
    assert lungs.peak_mb is None or lungs.peak_mb > 50
    mine = [fault for fault in faults if fault.model == "ct-lung"]
    assert mine
    assert all(fault.png.startswith(b"\x89PNG") and fault.weight > 0 for fault in mine)


def test_the_order_of_storage_changes_nothing(data: Path, straight: tuple[list[Run], list[Fault]]) -> None:
    """Rows, columns and slices from the other end: other files, the same volume and so the same agreement."""
    (turned,), _ = evaluate(task(data, variant="columns-flipped"))
    assert turned.agreements == straight[0][0].agreements


@pytest.mark.parametrize("order", ORDERS)
def test_files_are_stored_the_other_way_round_and_show_the_same(order: str, tmp_path: Path) -> None:
    """The files differ, slice by slice; what is read from them does not. Oblique, so that no axis hides another."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    turned = (0.96, 0.28, 0.0, -0.224, 0.768, 0.6)
    series = read_series(write_series(synthetic_ct(orientation=turned), tmp_path / "one"))
    again = read_series(ORDERS[order](series, tmp_path / "other"))
    assert np.array_equal(again.volume.voxels, series.volume.voxels)
    assert again.volume.affine == pytest.approx(series.volume.affine, abs=1e-6)
    if order == "slices-flipped":
        numbers = [int(one.InstanceNumber) for one in again.source.headers]
        assert numbers == [int(one.InstanceNumber) for one in series.source.headers][::-1]
    else:
        assert not np.array_equal(again.values, series.values)


def test_a_change_goes_through_reference_and_images_alike(
    data: Path, straight: tuple[list[Run], list[Fault]]
) -> None:
    """A double oblique phantom agrees nearly as well; the reference is what the turned grid still holds of it."""
    (run,), _ = evaluate(task(data, variant="double-oblique"))
    before, after = straight[0][0].agreements[0], run.agreements[0]
    assert all(one.dice > 0.9 for one in run.agreements)
    assert after.dice != before.dice
    assert 0.6 < after.reference_ml / before.reference_ml < 1.01


def test_planted_nodules_are_the_truth_of_their_scan(data: Path) -> None:
    """A detector's run over them knows their kinds; marks on the patient's own nodules count neither way."""
    (run,), faults = evaluate(task(data, variant="planted-1", models=("ct-lung-nodule",)))
    assert run.lesions is not None
    assert {one.kind for one in run.lesions} == {"solid", "part-solid", "ground-glass"}
    missed = len(run.lesions) - len({mark.object for mark in run.marks if mark.object > 0})
    assert sum(fault.what.startswith("missed") for fault in faults) == min(missed, 4)
    assert any(mark.object > 0 and (mark.dice or 0) > 0.3 for mark in run.marks)
    assert IGNORED in {mark.object for mark in run.marks}


def test_what_is_drawn_in_another_body_is_an_alarm(data: Path) -> None:
    """The same lungs, said to be a head: the run tells it, and the slice is shown."""
    (run,), faults = evaluate(task(data, Case(name="thorax/dicom", other_body=True), variant="upper-half"))
    assert run.other_body
    assert run.drawn == 3  # both lungs and airways
    assert run.lesions is None
    assert faults


def test_a_refusal_is_a_result_with_its_reason(data: Path) -> None:
    """Two slices are no volume; a model declines noise, and then every labelled nodule is missed; no sense, no run."""
    (unread,), _ = evaluate(task(data, Case(name=".")))
    assert unread.refused.startswith("not read")
    (declined,), _ = evaluate(task(data, Case(name="noise", nodule_at=(0.0, 0.0, 50.0)), models=("ct-lung-nodule",)))
    assert "lung" in declined.refused
    assert declined.lesions is not None
    assert len(declined.lesions) == 1
    (skipped,), _ = evaluate(task(data, Case(name="noise"), variant="64x64"))
    assert "64" in skipped.skipped


def test_the_command_writes_its_pages_and_ends_with_the_figures(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each task in a process of its own; one that breaks is named, and the command ends with 1."""
    broken = replace(THORAX, name="noise", lungs="thorax/nothing.nrrd")
    monkeypatch.setattr(command, "CASES", (Case(name="noise", other_body=True), broken))
    arguments = ["--data", str(data), "--model", "ct-lung", "--plain", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 1
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["runs"], figures["errors"], figures["series_other_body"]) == (2, 2, 1)  # once in the gate's part
    assert figures["false_alarms_other_body"] == 0
    report = results.read(tmp_path / "out" / "report.json")
    assert "nothing.nrrd" in report.runs[1].error
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"report.json", "report.md", "report.html"}


def test_each_case_is_listed_once_and_lies_in_the_test_data(data_dir: Path) -> None:
    """Series, labels and masses are there; what other cases repeat is a case."""
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for case in CASES:
        assert all((data_dir / place).exists() for place in (case.name, case.lungs, case.nodules, case.tumour) if place)
        assert not case.repeats or case.repeats in names
