"""kill -9 in the middle: the study still ends as exactly one SEG and one SR of each job in the PACS."""

from __future__ import annotations

import base64
import json
import os
import pickle
from pathlib import Path

import pydicom
import pytest
import redis
from pynetdicom import AE

from node.domain.job import JobState
from node.supervisor import running_roles
from node.testing import ScriptedPacs, thorax_study
from tests.rig import RunningNode, listens, wait_for
from tests.system.conftest import StartNode

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(400)]

LUNGS_ONLY = (
    '[[rule]]\nname = "lungs"\nmodel = "ct-lung"\nmodality = ["CT"]\nmin_slices = 12\ndestinations = ["pacs"]\n'
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The sample study, as files."""
    return thorax_study(tmp_path_factory.mktemp("study"))


def peer_lines(pacs: ScriptedPacs) -> str:
    """Return the configuration of *pacs* as a peer, and one rule."""
    peer = pacs.peer("pacs")
    return f'[[peer]]\nname = "pacs"\nae_title = "{peer.ae_title}"\nport = {peer.port}\n{LUNGS_ONLY}'


def send(files: list[Path], node: RunningNode, calling_ae: str, *, stop_after: int | None = None) -> list[str]:
    """Store *files* on the node over one association; return the SOP Instance UIDs that it acknowledged."""
    ae = AE(ae_title=calling_ae)
    first = pydicom.dcmread(files[0], stop_before_pixels=True)
    ae.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", node.port, ae_title=node.ae_title)
    assert association.is_established
    acked = []
    for number, file in enumerate(files):
        if number == stop_after:
            node.kill("scp")
        if not association.is_established:
            break
        status = association.send_c_store(file)
        if "Status" in status and status.Status == 0:
            acked.append(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)
    if association.is_established:
        association.release()
    return acked


def assert_exactly_one_of_each(node: RunningNode, pacs: ScriptedPacs) -> None:
    """The only job is done, and the PACS holds one SEG, one SR and one page, each under one UID."""
    (job,) = node.wait_until_ended(1)
    assert job.state is JobState.DONE, job.reason
    classes = [pydicom.dcmread(file).Modality for file in sorted(pacs.folder.glob("*.dcm"))]
    assert sorted(classes) == ["OT", "SEG", "SR"]


def test_a_worker_killed_in_the_middle_of_a_job_costs_one_attempt(
    study: list[Path], start_node: StartNode, tmp_path: Path
) -> None:
    """kill -9 of the worker and its child while the model runs: the job is run again, once."""
    with ScriptedPacs(tmp_path / "pacs") as pacs:
        node = start_node(peer_lines(pacs))
        send(study, node, pacs.ae_title)
        wait_for("a running model", lambda: [j for j in node.jobs() if j.state is JobState.RUNNING], limit=60)
        node.kill("worker-gpu-1")
        assert_exactly_one_of_each(node, pacs)
        assert node.jobs()[0].attempts == 2


def test_a_listener_killed_in_the_middle_of_an_association_loses_nothing_that_it_acknowledged(
    study: list[Path], start_node: StartNode, tmp_path: Path
) -> None:
    """What was acknowledged is kept; the sender's own retry of the whole study gives one job, one result set.

    Quiet must last long enough for the retry alone, however long the listener takes to come back.
    """
    with ScriptedPacs(tmp_path / "pacs") as pacs:
        node = start_node(peer_lines(pacs), quiet=4.0)
        acked = send(study, node, pacs.ae_title, stop_after=len(study) // 2)
        assert 0 < len(acked) < len(study)
        before = node.pid("supervisor")
        wait_for("the listener again", lambda: _echoes(node, pacs.ae_title), limit=30)
        assert node.pid("supervisor") == before
        assert len(send(study, node, pacs.ae_title)) == len(study)
        assert_exactly_one_of_each(node, pacs)


def test_a_node_that_is_stopped_in_the_middle_of_a_job_gives_it_back_uncounted(
    study: list[Path], start_node: StartNode, tmp_path: Path
) -> None:
    """Where the time to drain is over before the model is through: no attempt is lost to an upgrade."""
    with ScriptedPacs(tmp_path / "pacs") as pacs:
        node = start_node(peer_lines(pacs), drain=4.0)
        send(study, node, pacs.ae_title)
        wait_for("a running model", lambda: [j for j in node.jobs() if j.state is JobState.RUNNING], limit=60)
        node.stop()
        (job,) = node.jobs()
        assert (job.state, job.attempts, job.owner) == (JobState.PENDING, 0, "")


def test_a_killed_redis_costs_time_but_no_job(study: list[Path], start_node: StartNode, tmp_path: Path) -> None:
    """kill -9 of Redis once the study is in: every doorbell is lost, and the job is done all the same."""
    with ScriptedPacs(tmp_path / "pacs") as pacs:
        node = start_node(peer_lines(pacs))
        send(study, node, pacs.ae_title)
        node.kill("redis")
        wait_for("a planned job", node.jobs, limit=30)
        node.kill("redis")
        assert_exactly_one_of_each(node, pacs)


def test_forged_doorbells_do_nothing_but_ring(study: list[Path], start_node: StartNode, tmp_path: Path) -> None:
    """Garbage, pickles, unknown tasks and invented ids lie in both queues: no code of theirs runs, no work is lost."""
    mark = tmp_path / "pickle-was-run"
    with ScriptedPacs(tmp_path / "pacs") as pacs:
        node = start_node(peer_lines(pacs))
        wait_for("both workers", lambda: {"worker-gpu-1", "worker-io-1"} <= set(running_roles(node.home)), limit=30)
        client = redis.Redis(unix_socket_path=str(node.home / "run" / "redis.sock"))
        for queue in ("gpu", "io"):
            for forged in _forgeries(queue, mark):
                client.lpush(queue, forged)
        send(study, node, pacs.ae_title)
        assert_exactly_one_of_each(node, pacs)
        client.close()
    assert not mark.exists()


def _forgeries(queue: str, mark: Path) -> list[bytes]:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return os.system, (f"touch {mark}",)

    def message(body: bytes, kind: str, task: str) -> bytes:
        return json.dumps({
            "body": base64.b64encode(body).decode(), "content-encoding": "binary", "content-type": kind,
            "headers": {"task": task, "id": "1", "lang": "py", "argsrepr": "", "kwargsrepr": ""},
            "properties": {
                "correlation_id": "1", "delivery_mode": 2, "body_encoding": "base64",
                "delivery_tag": os.urandom(4).hex(),
                "delivery_info": {"exchange": "", "routing_key": queue}, "priority": 0,
            },
        }).encode()  # fmt: skip

    call = json.dumps([["no-such-job"], {}, {}]).encode()
    return [
        b"garbage", b"{}", b'{"body": 7}',
        message(pickle.dumps(Evil()), "application/x-python-serialize", "pacs_node.run_job"),
        message(call, "application/json", "os.system"),
        message(call, "application/json", "pacs_node.deliver"),
        message(call, "application/json", "pacs_node.run_job"),
        message(b"[[1, 2, 3], {}, {}]", "application/json", "pacs_node.deliver"),
    ]  # fmt: skip


def _echoes(node: RunningNode, calling_ae: str) -> bool:
    if not listens(node.port):
        return False
    ae = AE(ae_title=calling_ae)
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate("127.0.0.1", node.port, ae_title=node.ae_title)
    if association.is_established:
        association.release()
        return True
    return False
