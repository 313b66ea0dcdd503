"""The gate's part of the evaluation: what is in view of each scan, and what was learnt from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contract import Volume
from models.evaluate.perturb import Scene
from models.gate.judge import WEIGHTS
from models.network import TURNS, read_facts
from node.testing import synthetic_ct, thorax_study, write_series
from workers import gating
from workers.gating import passings
from workers.reference_cases import CASES, Case


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The thorax phantom, and a single slice that no volume is made of."""
    folder = tmp_path_factory.mktemp("data")
    thorax_study(folder / "thorax" / "dicom", shape=(40, 96, 96))
    (folder / "slice").mkdir()
    write_series(synthetic_ct(slices=1), folder / "slice")
    return folder


def test_each_scan_is_asked_about_as_it_is_and_changed(data: Path) -> None:
    """What cannot be read asks no gate; what breaks is told, and the next follows."""
    cases = (Case(name="slice"), Case(name="gone"), Case(name="thorax/dicom"))
    first, *rest = passings(cases, data, "cpu", plain=False, only="none of these")
    assert (first.case, first.error.partition(":")[0]) == ("gone", "FileNotFoundError")
    assert {one.case for one in rest} == {"thorax/dicom"}
    assert {"", "64x64", "padding-2000", "upper-half"} <= {one.variant for one in rest}
    assert all(one.shown and not one.generated and not one.learnt and one.seconds > 0 for one in rest)
    assert rest[0].admitted
    assert all(set(one.lies) == set(TURNS) for one in rest)
    assert set(rest[0].turned) == set(TURNS)
    assert not any(one.turned for one in rest[1:])
    for turn, lies in rest[0].lies.items():
        assert rest[0].turned[turn] == (None if lies is None else not lies)


def test_what_was_learnt_from_is_known_by_the_weights_own_word(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case's folder is the name of the prepared case; one that shows a patient again was learnt with it."""
    monkeypatch.setattr(gating, "read_facts", lambda _file: {"real_cases": ["thorax"]})
    (one,) = passings((Case(name="thorax/dicom"),), data, "cpu", plain=True)
    assert one.learnt
    named = {case.name.partition("/")[0] for case in CASES}
    assert set(read_facts(WEIGHTS)["real_cases"]) <= named


def test_lung_is_in_view_by_its_reference() -> None:
    """20 mL and more; of a few voxels either answer is right; without a reference the case itself is believed."""
    volume = Volume(voxels=np.zeros((10, 10, 10), np.float32), affine=np.diag([5.0, 5.0, 5.0, 1.0]))  # 125 mL
    lung = np.zeros((10, 10, 10), dtype=bool)
    shown = []
    for count in (0, 100, 1000):
        lung = lung.copy()
        lung.ravel()[:count] = True
        shown.append(gating._shown(Case(name="x"), Scene(volume=volume, reference={"lungs": lung})))
    assert shown == [False, None, True]
    assert gating._shown(Case(name="x"), Scene(volume=volume, reference={})) is True
    assert gating._shown(Case(name="x", other_body=True), Scene(volume=volume, reference={})) is False


def test_generated_bodies_have_seeds_of_their_own() -> None:
    """Of every region, none that a recipe draws; lung is in view where it is labelled."""
    head, prone = gating._bodies("head-5003002")
    assert (prone.variant, prone.phase, prone.volume.voxels.shape) == ("table in front", "", head.volume.voxels.shape)
    assert (head.generated, head.learnt, head.shown) == (True, False, False)
    assert head.volume.spacing[1] == head.volume.spacing[2]
    assert read_facts(WEIGHTS)["recipe"]["data"]["bodies"] < 1_000_000
