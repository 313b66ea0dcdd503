"""The disk of the log is full: whoever reads it sees nothing more, and the node goes on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.chaos.oracle import at_rest, judge
from tests.chaos.senders import Ledger, Modality
from tests.chaos.stand import running_stand
from tests.rig import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


def test_a_full_log_stops_nothing(tmp_path: Path) -> None:
    """From the start: every line that every role writes fails; a study comes in, is read, and its results leave."""
    with running_stand(tmp_path, log=Path("/dev/full")) as stand:
        modality = Modality(tmp_path / "modality", 1, Ledger())
        modality.send(modality.make(0), stand.port, stand.called, threading.Event())
        wait_for("all to come to rest", lambda: at_rest(stand), limit=120)
        verdict = judge(stand, modality.ledger)
        assert verdict.is_clean, verdict
        assert stand.kill("scp")
        modality.send(modality.make(1), stand.port, stand.called, threading.Event())
        wait_for("all to come to rest", lambda: at_rest(stand), limit=120)
        verdict = judge(stand, modality.ledger)
        assert verdict.is_clean, verdict
