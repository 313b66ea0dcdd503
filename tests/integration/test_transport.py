"""The way to a peer over real associations: what each answer, and each silence, means."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import _config

from node.domain.peer import AnswerKind, OutgoingFile, Peer
from node.errors import PeerAway, PeerRefused
from node.testing import ScriptedPacs, synthetic_ct, write_series
from node.transport import Transport, open_transport
from node.transport.cstore import read_status

# pynetdicom shuts a socket that never connected down before it closes it; that raises, and the close is skipped.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[ScriptedPacs]:
    """A PACS that behaves until it is told otherwise."""
    with ScriptedPacs(tmp_path / "pacs") as pacs:
        yield pacs


@pytest.fixture
def files(tmp_path: Path) -> list[OutgoingFile]:
    """Three instances, ready to be sent."""
    images = synthetic_ct(slices=3)
    return [outgoing(ds, path) for ds, path in zip(images, write_series(images, tmp_path / "out"), strict=True)]


def outgoing(ds: Dataset, path: Path) -> OutgoingFile:
    """Return one instance file as the deliverer describes it."""
    return OutgoingFile(
        path=path, sop_class=str(ds.SOPClassUID), sop_uid=str(ds.SOPInstanceUID), study_uid=str(ds.StudyInstanceUID),
        transfer_syntax=str(ds.file_meta.TransferSyntaxUID),
    )  # fmt: skip


def to(pacs: ScriptedPacs, *, timeout: float = 5.0) -> Transport:
    """Return the way to *pacs*."""
    return open_transport(pacs.peer("pacs", timeout=timeout), calling_ae="NODE")


def test_files_arrive_in_order_as_they_lie_on_disk(pacs: ScriptedPacs, files: list[OutgoingFile]) -> None:
    """The data set is not touched: the bytes behind the file meta information are the same."""
    assert [answer.kind for answer in to(pacs).send(files)] == [AnswerKind.ACCEPTED] * 3
    assert pacs.order == [file.sop_uid for file in files]
    for file in files:
        assert data_set(pacs.folder / f"{file.sop_uid}.dcm") == data_set(file.path)


def data_set(path: Path) -> bytes:
    """Return the bytes behind the file meta information, whose length its first element tells (PS3.10 7.1)."""
    data = path.read_bytes()
    return data[144 + int.from_bytes(data[140:144], "little") :]


def test_each_file_has_its_own_answer(pacs: ScriptedPacs, files: list[OutgoingFile]) -> None:
    """A warning is success; out of resources is later; cannot understand is never."""
    pacs.statuses = [0xB000, 0xA700, 0xC000]
    answers = list(to(pacs).send(files))
    assert [answer.kind for answer in answers] == [AnswerKind.ACCEPTED, AnswerKind.LATER, AnswerKind.REFUSED]
    assert [answer.status for answer in answers] == ["B000", "A700", "C000"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0x0000, "accepted"), (0xB000, "accepted"), (0xB006, "accepted"), (0xB007, "accepted"), (0x0111, "accepted"),
        (0xA700, "later"), (0xA7FF, "later"), (0x0110, "later"), (0x0213, "later"),
        (0xA900, "refused"), (0xC000, "refused"), (0xCFFF, "refused"), (0x0122, "refused"), (0x0124, "refused"),
    ],
)  # fmt: skip
def test_each_status_means_what_the_standard_says(status: int, kind: str) -> None:
    """PS3.4 B.2.3 and PS3.7 annex C."""
    assert read_status(status).kind == kind
    assert read_status(status).status == f"{status:04X}"


def test_a_cut_association_leaves_the_answer_unknown_and_the_rest_unsent(
    pacs: ScriptedPacs, files: list[OutgoingFile]
) -> None:
    """Whether the first is there nobody knows; the others were not tried on that association."""
    pacs.aborts_after_store = 1
    answers = list(to(pacs).send(files))
    assert [answer.kind for answer in answers] == [AnswerKind.UNKNOWN, AnswerKind.LATER, AnswerKind.LATER]
    assert pacs.received == {files[0].sop_uid: 1}


def test_a_silent_peer_is_unknown_after_its_timeout(pacs: ScriptedPacs, files: list[OutgoingFile]) -> None:
    """No answer within the peer's time: it may have kept the instance."""
    pacs.delay = 7.0
    (answer,) = to(pacs, timeout=3.0).send(files[:1])
    assert answer.kind is AnswerKind.UNKNOWN


def test_a_query_tells_what_is_there(pacs: ScriptedPacs, files: list[OutgoingFile]) -> None:
    """Yes for what was sent, no for what was not."""
    list(to(pacs).send(files[:1]))
    assert [to(pacs).find(file) for file in files[:2]] == [True, False]


def test_a_peer_without_queries_cannot_be_asked(pacs: ScriptedPacs, files: list[OutgoingFile]) -> None:
    """None: neither yes nor no."""
    pacs.stop()
    pacs.can_find = False
    pacs.start()
    assert to(pacs).find(files[0]) is None


def test_an_instance_that_the_peer_has_no_context_for_is_refused_by_name(
    pacs: ScriptedPacs, files: list[OutgoingFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of the set go their way; alone, the peer takes part in nothing that we propose."""
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)  # the node's own door, where it is loaded
    strange = replace(files[0], transfer_syntax="1.2.840.10008.1.2.4.9999")
    kinds = [answer.kind for answer in to(pacs).send([files[1], strange])]
    assert kinds == [AnswerKind.ACCEPTED, AnswerKind.REFUSED]
    with pytest.raises(PeerRefused, match="takes part in none of the services"):
        list(to(pacs).send([strange]))


def test_more_kinds_than_one_association_holds_are_refused(files: list[OutgoingFile]) -> None:
    """128 presentation contexts are all there are (PS3.8 9.3.2)."""
    many = [replace(files[0], sop_class=f"1.2.3.{number}") for number in range(129)]
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=1)
    with pytest.raises(PeerRefused, match="129 kinds"):
        list(open_transport(peer, calling_ae="NODE").send(many))


def test_echo_times_a_peer_that_answers(pacs: ScriptedPacs) -> None:
    """What `pacs-node peers` shows."""
    assert 0 < to(pacs).echo() < 5


def test_an_absent_peer_is_away_and_says_where_it_should_be() -> None:
    """Nothing listens: a person reads which host and port to look at."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=port)
    with pytest.raises(PeerAway, match=rf"pacs \(PACS at 127.0.0.1:{port}\) does not answer"):
        open_transport(peer, calling_ae="NODE").echo()


def test_a_peer_whose_name_nobody_knows_is_away() -> None:
    """The name service fails, or the name is wrong: what is for it waits, and a person reads the name."""
    peer = Peer(name="pacs", ae_title="PACS", host="pacs.invalid", port=104)
    with pytest.raises(PeerAway, match="no address is known"):
        open_transport(peer, calling_ae="NODE").echo()


def test_a_port_that_speaks_no_dicom_is_away_after_its_timeout() -> None:
    """Something accepts the connection and says nothing: the peer's timeout ends it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=mute.getsockname()[1], timeout=0.5)
        with pytest.raises(PeerAway, match="does not answer"):
            open_transport(peer, calling_ae="NODE").echo()


def test_a_peer_that_does_not_know_us_refuses_and_says_why(pacs: ScriptedPacs) -> None:
    """Permanent: no retry helps, a person must register the node."""
    pacs.stop()
    pacs.refuses = True
    pacs.start()
    with pytest.raises(PeerRefused, match="Calling AE title not recognised"):
        to(pacs).echo()


def test_the_scripted_pacs_runs_as_a_process_and_stops_on_sigterm(tmp_path: Path, files: list[OutgoingFile]) -> None:
    """What the kill tests start: it says where it listens, keeps what it gets, and ends when asked."""
    command = [sys.executable, "-m", "node.testing", "pacs", "--folder", str(tmp_path / "kept"), "--ae-title", "AWAY"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        peer = Peer(name="pacs", ae_title="AWAY", host="127.0.0.1", port=int(line.split()[-1]))
        (answer,) = open_transport(peer, calling_ae="NODE").send(files[:1])
        process.terminate()
        assert process.wait(timeout=10) == 0
    assert line.startswith("listening: AWAY on 127.0.0.1 port ")
    assert answer.kind is AnswerKind.ACCEPTED
    assert (tmp_path / "kept" / f"{files[0].sop_uid}.dcm").is_file()
