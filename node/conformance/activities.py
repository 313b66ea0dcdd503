"""What the node opens associations for: which contexts it proposes, in which role, to which of its peers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from node.conformance.syntaxes import Name, named
from node.dicom.classes import WRITTEN_IN, classes_of
from node.domain.peer import SENDER, Counts, Peer, Verify
from node.settings import Settings

SCU, SCP = "SCU", "SCP"


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposed:
    """One presentation context as it is proposed."""

    abstract: Name
    syntaxes: tuple[Name, ...]
    role: str = SCU


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """One reason to open an association, and the peers that it is opened to."""

    name: str
    when: str
    peers: tuple[str, ...]
    contexts: tuple[Proposed, ...]  # for every peer; those of results stand with the profiles


def activities(settings: Settings) -> tuple[Activity, ...]:
    """Return why, and to whom, the node opens associations with these settings."""
    find = (proposed(StudyRootQueryRetrieveInformationModelFind),)
    ask = (proposed(StorageCommitmentPushModel),)
    report = (proposed(StorageCommitmentPushModel, role=SCP),)
    echo = (proposed(Verification),)

    to = {name for rule in settings.rules for name in rule.destinations}

    def peers(wanted: Callable[[Peer], bool]) -> tuple[str, ...]:
        return tuple(peer.name for peer in settings.peers if not peer.url and wanted(peer))

    def is_told(peer: Peer) -> bool:
        return peer.name in to or (SENDER in to and peer.may_send)

    return (
        Activity(
            name="Deliver results", when="a result set is frozen and this peer is its destination; the objects of the "
            "peer's profile, one context for each SOP class", peers=peers(is_told), contexts=(),
        ),
        Activity(
            name="Look for results", when='results were accepted, or sent without an answer: C-FIND at IMAGE level by '
            'Study and SOP Instance UID; where they were found, C-FIND at STUDY level for the Patient ID; for '
            '`verify = "query"`, and where storage commitment was not reported on',
            peers=peers(lambda peer: is_told(peer) and peer.verify is not Verify.NONE), contexts=find,
        ),
        Activity(
            name="Ask for storage commitment", when='results were accepted: one N-ACTION names all of a job; for '
            '`verify = "commitment"`',
            peers=peers(lambda peer: is_told(peer) and peer.verify is Verify.COMMITMENT), contexts=ask,
        ),
        Activity(
            name="Report on storage commitment", when="a peer asked, and did not wait on its association for the "
            "report; proposed with SCP/SCU role selection", peers=peers(lambda peer: peer.may_send), contexts=report,
        ),
        Activity(
            name="Count a study's instances", when='a study that the peer sends is quiet for `count_after`: C-FIND at '
            'SERIES level, at STUDY level where it counts no series; for `count = "c-find"`',
            peers=peers(lambda peer: peer.count is Counts.CFIND), contexts=find,
        ),
        Activity(
            name="Verify", when="a person says `pacs-node echo`", peers=peers(lambda _: True), contexts=echo,
        ),
        Activity(
            name="Examine", when="a person says `pacs-node doctor`: what of all above the peer takes; with `--store` "
            "one marked Secondary Capture", peers=peers(lambda _: True), contexts=(*echo, *find, *ask),
        ),
        Activity(
            name="Send files", when="a person says `pacs-node send`: any storage class, each in the transfer syntax of "
            "its file, one context for each", peers=peers(lambda _: True), contexts=(),
        ),
    )  # fmt: skip


def proposed(abstract: UID, *syntaxes: UID, role: str = SCU) -> Proposed:
    """Return a context as pynetdicom proposes it: where no syntax is named, in those of its default."""
    context = build_context(abstract, list(syntaxes)) if syntaxes else build_context(abstract)
    return Proposed(abstract=named(str(abstract)), syntaxes=_named(context.transfer_syntax), role=role)


def results_of(settings: Settings) -> Iterator[tuple[str, tuple[Proposed, ...]]]:
    """Yield each profile that a peer has, and the contexts of its results."""
    for name in dict.fromkeys(peer.profile for peer in settings.peers):
        sent = classes_of(settings.profiles[name])
        yield name, tuple(
            Proposed(abstract=Name(uid=uid, name=words), syntaxes=_named([WRITTEN_IN])) for uid, words in sent
        )


def _named(uids: Iterable[object]) -> tuple[Name, ...]:
    return tuple(named(str(uid)) for uid in uids)
