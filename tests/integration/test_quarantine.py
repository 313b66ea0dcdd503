"""Files that nobody could file, as a person deals with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.domain.study import StudyState
from node.testing import part10, synthetic_ct
from tests.integration.test_care import Call, call, node
from tests.unit.node.conftest import World

__all__ = ["call", "node"]  # fixtures

STUDY = "2.25.4711"


@pytest.fixture
def strays(node: World) -> dict[str, Path]:
    """A study is there; beside its files lie one cut short, one that is no DICOM, and a whole one, set apart."""
    node.keep(*(images := synthetic_ct(slices=5, uid_prefix=STUDY))[:4])
    node.settle()
    store = node.store
    name = store.instance_name("0" * 64, study_uid=STUDY, sop_uid=str(images[4].SOPInstanceUID))
    (store.root / name).write_bytes(part10(images[4]))
    made = {"changed": name}
    folder = Path(name).parent
    made["rubbish"] = str(folder / "rubbish.dcm")
    (store.root / made["rubbish"]).write_bytes(b"no DICOM" * 40)
    for one in made.values():
        store.set_apart(one)
    return {key: Path(value) for key, value in made.items()}


def test_the_list_says_why_each_lies_there(strays: dict[str, Path], call: Call, node: World) -> None:
    """And `status` sends a person to it."""
    code, out, _ = call("quarantine", "list", "--json")
    listed = {one["file"]: one for one in json.loads(out)}
    assert code == 0 and set(listed) == {str(one) for one in strays.values()}
    assert "not those that were received" in listed[str(strays["changed"])]["why"]
    assert listed[str(strays["changed"])]["study"] == STUDY
    assert listed[str(strays["rubbish"])]["why"]
    assert "study" not in listed[str(strays["rubbish"])]
    _, status, _ = call("status")
    assert "pacs-node quarantine list" in " ".join(status.split())
    code, out, _ = call("quarantine", "show", str(strays["rubbish"]))
    assert code == 0 and "bytes: 320" in out


def test_what_is_let_in_is_an_instance_that_comes_now(strays: dict[str, Path], call: Call, node: World) -> None:
    """Changed bytes only on a person's word; the study settles again with it."""
    name = str(strays["changed"])
    code, _, said = call("quarantine", "admit", name)
    assert code != 0 and "not let in" in said
    assert node.study(STUDY).state is StudyState.SETTLED
    code, out, _ = call("quarantine", "admit", name, "--as-it-is")
    assert code == 0 and STUDY in out
    assert name not in node.store.quarantined()
    assert (node.study(STUDY).state, node.study(STUDY).instances) == (StudyState.OPEN, 5)
    assert "let in from quarantine" in [one.what for one in node.story(study_uid=STUDY)]


def test_rubbish_is_never_let_in_and_can_be_dropped(strays: dict[str, Path], call: Call, node: World) -> None:
    """Once; a second time there is nothing."""
    name = str(strays["rubbish"])
    code, _, said = call("quarantine", "admit", name, "--as-it-is")
    assert code != 0 and "not let in" in said
    assert call("quarantine", "drop", name)[0] == 0
    assert node.store.quarantined() == [str(strays["changed"])]
    code, _, said = call("quarantine", "drop", name)
    assert code != 0 and "quarantine list" in " ".join(said.split())


def test_an_empty_quarantine_says_so(call: Call) -> None:
    """Before there ever was one."""
    assert "nothing lies" in call("quarantine", "list")[1]


def test_no_name_leads_out_of_it(node: World, call: Call, strays: dict[str, Path]) -> None:
    """A name is one of the list, nothing else."""
    for name in ("../node.db", "/etc/passwd", str(Path("..") / "instances")):
        assert call("quarantine", "drop", name)[0] != 0
    assert (node.home / "node.db").is_file()


def test_b24_a_program_in_the_preamble_is_not_let_in(node: World, call: Call) -> None:
    """The 128 bytes that are nobody's become zeros; the instance behind them is what it was."""
    (image,) = synthetic_ct(slices=1, uid_prefix=STUDY)
    name = node.store.instance_name("0" * 64, study_uid=STUDY, sop_uid=str(image.SOPInstanceUID))
    whole = part10(image)
    (node.store.root / name).parent.mkdir(parents=True)
    (node.store.root / name).write_bytes(b"MZ" + b"\x90" * 126 + whole[128:])
    node.store.set_apart(name)
    assert call("quarantine", "admit", name, "--as-it-is")[0] == 0
    (kept,) = (node.store.root / name).parent.glob("*.dcm")
    assert kept.read_bytes() == whole
