"""The inference child: whatever a model does, the parent goes on, with a reason."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from models import catalogue
from models.contract import Card, Findings, NotApplicable, Segment, Volume
from models.gate import Judgement
from models.phantom import thorax_phantom
from node.errors import ChildDied, GpuOutOfMemory, InputInvalid, ModelNotApplicable, OutOfMemory, OutputInvalid
from node.testing import synthetic_ct, write_series
from tests.unit.workers import misbehaving
from workers import findings_io, inference
from workers.inference import InferenceChild, Request, pass_gate


def _serve_misbehaving(connection: object) -> None:
    """Run the child's loop with models that go wrong, in the spawned process."""
    inference.catalogue.load = misbehaving.load  # type: ignore[assignment]
    inference.pass_gate = lambda *_: ()  # it would take what the device is called for a device
    inference._serve(connection)  # type: ignore[arg-type]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[InferenceChild]:
    """A child whose models misbehave as the request's device says."""
    monkeypatch.setattr(inference, "_serve", _serve_misbehaving)
    monkeypatch.setenv("PACS_NODE_DATABASE_URL", "postgresql://secret")
    one = InferenceChild()
    yield one
    one.kill()


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """A tiny CT series."""
    return tuple(write_series(synthetic_ct(), tmp_path_factory.mktemp("series")))


def ask(child: InferenceChild, paths: tuple[Path, ...], how: str, folder: Path, *, limit: float = 60.0) -> object:
    """Run the misbehaving model *how* in *child*."""
    request = Request(paths=paths, model="ct-lung", device=how, folder=folder)
    return child.run(request, limit=limit, on_progress=lambda *_: None, stop=lambda: False)


@pytest.mark.parametrize(
    ("how", "words"),
    [("exits", "exit code 7"), ("segfaults", "signal 11"), ("raises", r"ZeroDivisionError at misbehaving.py:\d+")],
)
def test_a_model_that_dies_is_a_reason_and_the_next_run_gets_a_new_child(
    child: InferenceChild, series: tuple[Path, ...], tmp_path: Path, how: str, words: str
) -> None:
    """The parent learns how it died, and goes on."""
    with pytest.raises(ChildDied, match=words):
        ask(child, series, how, tmp_path)
    ask(child, series, "behaves", tmp_path)


def test_a_model_that_hangs_is_stopped_at_its_time_limit(
    child: InferenceChild, series: tuple[Path, ...], tmp_path: Path
) -> None:
    """The limit counts from the request; the child is gone afterwards."""
    ask(child, series, "behaves", tmp_path)  # so that starting the process is not timed
    began = time.monotonic()
    with pytest.raises(ChildDied, match="longer than 2 s"):
        ask(child, series, "hangs", tmp_path, limit=2.0)
    assert time.monotonic() - began < 10.0
    assert child.pid is None


def test_a_model_that_eats_all_memory_is_stopped_at_its_limit(
    child: InferenceChild, series: tuple[Path, ...], tmp_path: Path
) -> None:
    """Before the machine has to choose whom to kill."""
    request = Request(paths=series, model="ct-lung", device="eats", folder=tmp_path)
    with pytest.raises(OutOfMemory, match="more than model_memory_mib"):
        child.run(request, limit=60, on_progress=lambda *_: None, stop=lambda: False, memory_mib=900)
    assert child.pid is None
    ask(child, series, "behaves", tmp_path)


@pytest.mark.parametrize(("how", "kind"), [("finds no memory", OutOfMemory), ("fills the GPU", GpuOutOfMemory)])
def test_too_little_memory_is_told_apart_and_the_next_run_gets_a_new_child(
    child: InferenceChild, series: tuple[Path, ...], tmp_path: Path, how: str, kind: type[OutOfMemory]
) -> None:
    """What filled the GPU once may have left it full."""
    with pytest.raises(OutOfMemory) as caught:
        ask(child, series, how, tmp_path)
    assert type(caught.value) is kind and child.pid is None
    ask(child, series, "behaves", tmp_path)


@pytest.mark.parametrize(("how", "words"), [("empty", "is empty"), ("wrong shape", "not a boolean grid")])
def test_output_that_is_no_result_is_refused(
    child: InferenceChild, series: tuple[Path, ...], tmp_path: Path, how: str, words: str
) -> None:
    """Nothing is written for the encoder."""
    with pytest.raises(OutputInvalid, match=words):
        ask(child, series, how, tmp_path)
    assert not (tmp_path / "findings.json").exists()


def test_a_model_that_declines_says_why_and_shows_what_it_saw(
    child: InferenceChild, series: tuple[Path, ...], tmp_path: Path
) -> None:
    """The picture comes over as PNG, pixel by pixel; what is none, or too large, is left out and the reason stays."""
    said: dict[str, ModelNotApplicable] = {}
    for how in ("", " and shows", " and shows too much", " and shows what is no picture"):
        with pytest.raises(ModelNotApplicable, match=r"^no lung is in view$") as caught:
            ask(child, series, f"declines{how}", tmp_path)
        said[how] = caught.value
    with Image.open(io.BytesIO(said[" and shows"].picture)) as picture:
        assert picture.format == "PNG" and np.array_equal(np.asarray(picture), misbehaving.SHOWN)
    assert [one.picture for how, one in said.items() if how != " and shows"] == [b"", b"", b""]
    assert (said[""].not_shown, said[" and shows"].not_shown) == ("", "")
    assert said[" and shows too much"].not_shown == "a picture has 1 to 2048 pixels a side, not 3000 x 2"
    assert said[" and shows what is no picture"].not_shown == "a picture holds 8-bit values, not float32"


def test_the_child_has_no_settings_of_the_node(
    child: InferenceChild, series: tuple[Path, ...], tmp_path: Path
) -> None:
    """No database address reaches the process that runs models."""
    ask(child, series, "behaves", tmp_path)
    assert "[]" in (tmp_path / "findings.json").read_text()


def test_unreadable_input_is_the_input_s_fault(child: InferenceChild, tmp_path: Path) -> None:
    """A file that is no DICOM ends as InputInvalid, not as a dead child."""
    rubbish = tmp_path / "rubbish.dcm"
    rubbish.write_bytes(b"not DICOM at all" * 20)
    with pytest.raises(InputInvalid):
        ask(child, (rubbish, rubbish, rubbish), "behaves", tmp_path)


def test_what_is_drawn_has_the_sizes_that_are_reported() -> None:
    """Pages and report name one volume: that of the source grid."""
    mask = np.ones((2, 2, 2), dtype=np.bool_)
    model = Findings(segments=(Segment(key="left-lung", mask=mask, volume_ml=1.0),))
    placed = Findings(segments=(Segment(key="left-lung", mask=mask[:1], volume_ml=2.0),))
    (drawn,) = inference.with_measures(model, placed).segments
    assert drawn.volume_ml == 2.0 and drawn.mask is mask


def asking(*regions: str) -> Card:
    """Return the card of the lungs, asking for other regions."""
    return replace(catalogue.card("ct-lung"), regions=frozenset(regions))


def test_what_the_card_does_not_want_is_declined_with_a_picture() -> None:
    """Before the model runs; the thorax phantom is no pair of legs."""
    stages = []
    with pytest.raises(NotApplicable, match=r"this looks like a chest \(\d+ of 24 slices .*\), not legs") as told:
        pass_gate(thorax(), asking("legs"), "cpu", lambda _done, stage: stages.append(stage))
    assert told.value.picture is not None
    assert told.value.picture.shape == (480, 720, 3)
    assert stages == ["looking at what is shown"]
    pass_gate(thorax(), asking("legs", "chest"), "cpu", lambda *_: None)


def thorax() -> Volume:
    """Return the thorax phantom."""
    phantom = thorax_phantom((40, 96, 96), (7.0, 3.6, 3.6))
    return Volume(voxels=phantom.voxels, affine=phantom.affine)


def test_what_was_seen_is_told_with_the_reason() -> None:
    """Regions counted, and what is known besides: whoever wonders about a refusal finds more than its sentence."""
    with pytest.raises(NotApplicable, match=r"not legs \(seen: chest in \d+"):
        pass_gate(thorax(), asking("legs"), "cpu", lambda *_: None)


def test_a_remark_of_the_gate_is_handed_on_and_a_phase_that_is_not_wanted_declined(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card's phases reach the gate; what it found odd reaches the report."""
    def judge(_volume: Volume, regions: frozenset[str], _progress: object, phases: frozenset[str]) -> Judgement:
        return Judgement(fits=phases != {"none"}, reason="other phase", remarks=("mirrored?",), picture=lambda: PICTURE)

    monkeypatch.setattr("models.gate.load", lambda _device: SimpleNamespace(judge=judge))
    assert pass_gate(thorax(), asking("chest"), "cpu", lambda *_: None) == ("mirrored?",)
    with pytest.raises(NotApplicable, match=r"^other phase$"):
        pass_gate(thorax(), replace(asking("chest"), phases=frozenset({"none"})), "cpu", lambda *_: None)


PICTURE = np.zeros((2, 2, 3), np.uint8)


def test_the_report_says_first_what_the_gate_remarked(
    series: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the images look mirrored must reach the radiologist, before what the model has to say."""
    monkeypatch.setattr(inference, "pass_gate", lambda *_: ("mirrored?",))
    model = SimpleNamespace(run=lambda _volume, _progress: Findings(remarks=("cut below",)))
    request = Request(paths=series, model="ct-lung", device="cpu", folder=tmp_path)
    inference.infer(request, {"ct-lung cpu": model}, lambda *_: None)
    assert findings_io.load(tmp_path).remarks == ("mirrored?", "cut below")


def test_a_card_without_regions_asks_no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the scan shows; the gate is not even loaded."""
    monkeypatch.setattr("models.gate.load", None)
    nothing = Volume(voxels=np.zeros((4, 90, 90), np.float32), affine=np.eye(4))
    pass_gate(nothing, asking(), "cpu", lambda *_: None)
    with pytest.raises(TypeError):
        pass_gate(nothing, asking("chest"), "cpu", lambda *_: None)
