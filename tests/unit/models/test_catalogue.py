"""The catalogue: cards without torch, digests of the code, models by name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import models
from models import catalogue
from models.contract import Card
from models.generator import PHASES, REGIONS

NAMES = ("ct-lung", "ct-lung-nodule")
ROOT = Path(models.__file__).resolve().parent.parent

#: Prints the digest of a model of a copy of `models`; the catalogue remembers, so each question is a process.
ASK = "from models import catalogue; import sys; print(catalogue.digest(sys.argv[1]))"


def ask(root: Path, name: str) -> str:
    """Return the digest that a fresh process finds below *root*."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, name], cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.strip()


def test_every_model_is_listed_once_in_order() -> None:
    """Two models ship."""
    assert catalogue.card_names() == NAMES
    assert [card.name for card in catalogue.cards()] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_people_and_encoders_need(name: str) -> None:
    """Title, limits, a research qualification, and for each segment codes and a colour of its own."""
    card = catalogue.card(name)
    assert card.title and card.purpose and card.limits
    assert (card.modality, card.qualification) == ("CT", "RESEARCH")
    assert len({kind.colour for kind in (*card.segments, *card.sites)}) == len(card.segments) + len(card.sites)
    for kind in (*card.segments, *card.sites):
        assert kind.category.scheme == kind.type.scheme == "SCT"
        assert all(0 <= channel <= 255 for channel in kind.colour)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_gives_figures_measured_on_named_data(name: str) -> None:
    """A claim without its data is none."""
    figures = catalogue.card(name).figures
    assert figures
    assert all(data and measure and value >= 0 for data, measure, value in figures)


@pytest.mark.parametrize("name", NAMES)
def test_left_and_right_are_coded_as_left_and_right(name: str) -> None:
    """SNOMED CT's 7771000 is Left and 24028007 is Right: exchanged, they would exchange the patient's lungs."""
    card = catalogue.card(name)
    for key, code in (("left-lung", "7771000"), ("right-lung", "24028007")):
        laterality = card.kind_of(key).laterality
        assert laterality is not None
        assert laterality.value == code


@pytest.mark.parametrize("name", NAMES)
def test_the_models_of_the_lung_ask_for_a_chest(name: str) -> None:
    """By the names that the generator draws and the gate knows."""
    assert catalogue.card(name).regions == {"chest"}
    assert catalogue._REGIONS == REGIONS
    assert catalogue._PHASES == PHASES


def test_a_card_without_input_asks_no_gate_and_its_digest_leaves_it_out(tmp_path: Path) -> None:
    """The gate decides what the models answer that ask it: its code and its weights are in their digests alone."""
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    card = tmp_path / "models" / "ct_lung_nodule" / "card.toml"
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace('[input]\nregions = ["chest"]\n', ""), encoding="utf-8")
    before = {name: ask(tmp_path, name) for name in NAMES}
    with (tmp_path / "models" / "gate" / "judge.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    between = {name: ask(tmp_path, name) for name in NAMES}
    (tmp_path / "models" / "gate" / "weights.safetensors").write_bytes(b"other")
    after = ask(tmp_path, "ct-lung")
    assert len({before["ct-lung"], between["ct-lung"], after}) == 3
    assert ask(tmp_path, "ct-lung-nodule") == before["ct-lung-nodule"]


def test_a_card_names_the_phases_that_its_model_is_made_for() -> None:
    """None are named where any will do."""
    asked = catalogue._input({"regions": ["chest", "abdomen"], "phases": ["none", "venous"]})
    assert asked == {"regions": {"chest", "abdomen"}, "phases": {"none", "venous"}}
    assert catalogue._input({"regions": ["chest"]})["phases"] == frozenset()


def test_an_unknown_model_is_a_key_error_that_names_it() -> None:
    """For the card, the digest and the model itself."""
    for question in (catalogue.card, catalogue.digest, lambda name: catalogue.load(name, "cpu")):
        with pytest.raises(KeyError, match="ct-spleen"):
            question("ct-spleen")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("version =", "edition =", "version is missing"),
        ('label = "Left lung"', "", "label is missing"),
        ('name = "ct-lung"', 'name = "ct-liver"', "folder says 'ct-gap'"),
        ('kind = "segmentation"', 'kind = "magic"', "not one of segmentation, detection"),
        ('"RESEARCH"', '"MAYBE"', "qualification is 'MAYBE'"),
        ("[86, 180, 233]", "[86, 180]", "three whole numbers"),
        ("[86, 180, 233]", "[86, 180, 300]", "three whole numbers"),
        ('key = "right-lung"', 'key = "left-lung"', "one key each"),
        ("[[segment]]", "[[segment", "line"),
        ('kind = "segmentation"', 'kind = "segmentation"\nbuilds_on = ["ct-gap"]', "'ct-gap', which is no other model"),
        ('kind = "segmentation"', 'kind = "segmentation"\nbuilds_on = ["ct-spleen"]', "'ct-spleen', which is no other"),
        ('regions = ["chest"]', 'regions = ["tail"]', "input.regions is 'tail', not one of chest, abdomen"),
        ('regions = ["chest"]', "regions = []", "not a list of chest, abdomen"),
        ('regions = ["chest"]', 'regions = "chest"', "not a list of chest, abdomen"),
        ('regions = ["chest"]', 'phases = ["none"]', "input.phases needs input.regions"),
        ('regions = ["chest"]', 'regions = ["chest"]\nphases = ["late"]', "'late', not one of none, arterial, venous"),
        ('regions = ["chest"]', 'regions = ["chest"]\nphases = []', "input.phases is .., not a list of none, arterial"),
        ('regions = ["chest"]', 'regions = ["chest"]\nkernels = ["b"]', "input.kernels is no key; here belong regions"),
    ],
)
def test_a_mistake_in_a_card_is_told_with_its_file(
    before: str, after: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The author of a new model reads what to mend."""
    text = (ROOT / "models" / "ct_lung" / "card.toml").read_text(encoding="utf-8").replace('"ct-lung"', '"ct-gap"')
    before = before.replace('"ct-lung"', '"ct-gap"')
    assert before in text
    (tmp_path / "ct_gap").mkdir()
    (tmp_path / "ct_gap" / "card.toml").write_text(text.replace(before, after, 1), encoding="utf-8")
    monkeypatch.setattr(catalogue, "_HERE", tmp_path)
    catalogue.card_names.cache_clear()
    catalogue.card.cache_clear()
    try:
        with pytest.raises(catalogue.CardError, match=message) as told:
            catalogue.card("ct-gap")
    finally:
        catalogue.card_names.cache_clear()
        catalogue.card.cache_clear()
    assert "card.toml" in str(told.value)


def test_cards_are_read_without_torch_and_scipy() -> None:
    """The node's own processes have neither installed."""
    code = (
        "import sys; from models import catalogue; catalogue.cards(); [catalogue.digest(n) for n in catalogue."
        "card_names()]; print(sorted({'torch', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_digest_follows_the_code_and_nothing_else(tmp_path: Path) -> None:
    """Times and caches change nothing; one changed byte of code, card or shared module changes it."""
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    before = {name: ask(tmp_path, name) for name in NAMES}
    assert before == {name: catalogue.digest(name) for name in NAMES}
    for file in (tmp_path / "models").rglob("*.py"):
        os.utime(file, (1, 1))
    cache = tmp_path / "models" / "ct_lung" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "model.cpython-311.pyc").write_bytes(b"old")
    assert {name: ask(tmp_path, name) for name in NAMES} == before
    with (tmp_path / "models" / "ct_lung" / "model.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert ask(tmp_path, "ct-lung") != before["ct-lung"]
    changed = ask(tmp_path, "ct-lung-nodule")
    assert changed != before["ct-lung-nodule"]  # it builds on ct-lung
    with (tmp_path / "models" / "ct_lung_nodule" / "shapes.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert ask(tmp_path, "ct-lung-nodule") not in (changed, before["ct-lung-nodule"])
    lungs = ask(tmp_path, "ct-lung")
    with (tmp_path / "models" / "lungs.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert ask(tmp_path, "ct-lung") != lungs


def test_a_card_names_every_model_that_its_code_imports() -> None:
    """What is imported without being named would change the answers behind the digest's back."""
    for card in catalogue.cards():
        folder = ROOT / "models" / card.name.replace("-", "_")
        text = "\n".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
        others = {name for name in NAMES if name != card.name and f"models.{name.replace('-', '_')}" in re.findall(
            r"^(?:from|import) (models\.\w+)", text, re.MULTILINE)}  # fmt: skip
        assert others == set(card.builds_on)


def test_a_digest_covers_every_file_that_a_model_runs() -> None:
    """A shared file that the digest does not know could change the answers while they pass for the same."""
    code = (
        "import sys, importlib, models.gate.judge\n"
        f"for name in {NAMES}: importlib.import_module(f'models.{{name.replace(\"-\", \"_\")}}.model')\n"
        "print(*sorted(one.__file__ for name, one in sys.modules.items() if name.startswith('models.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    used = {Path(file).relative_to(ROOT / "models") for file in done.stdout.split()}
    known = {"ct_lung", "ct_lung_nodule", catalogue._GATE, "catalogue.py", *catalogue._SHARED}
    assert {str(file) for file in used if file.parts[0] not in known} == set()
    assert Path("masks.py") in used


@pytest.mark.parametrize("name", NAMES)
def test_a_model_answers_only_with_keys_of_its_card(name: str, request: pytest.FixtureRequest) -> None:
    """The encoders look every key up; one that is missing would fail after the work is done."""
    findings = request.getfixturevalue("lungs" if name == "ct-lung" else "nodules")
    card: Card = catalogue.card(name)
    keys = [segment.key for segment in findings.segments] + [one.key for one in findings.detections]
    sites = [one.site for one in findings.detections]
    assert keys
    assert all(card.kind_of(key) for key in (*keys, *sites))
