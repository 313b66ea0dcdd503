"""What the statement says is proposed and accepted is what goes over the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from node.conformance import Statement, describe
from node.dicom.classes import WRITTEN_IN, classes_of
from node.domain.peer import OutgoingFile, Peer
from node.domain.profile import Profile
from node.settings import Settings
from node.testing import synthetic_ct, write_series
from node.transport.cstore import CStoreTransport
from node.transport.reports import report_to
from tests.integration.conftest import SENDER, Door
from tests.rig import free_port

JPEG_XL = "1.2.840.10008.1.2.4.112"
Context = tuple[str, tuple[str, ...], str]


@dataclass
class Recorder:
    """A peer that writes down what is proposed to it."""

    peer: Peer
    seen: list[Context] = field(default_factory=list)

    @property
    def transport(self) -> CStoreTransport:
        """The node's way to it."""
        return CStoreTransport(self.peer, calling_ae="NODE")

    def on_requested(self, event: Event) -> None:
        """Note each context, and in which role of ours."""
        request = event.assoc.requestor
        for one in request.primitive.presentation_context_definition_list:  # type: ignore[union-attr]
            asked = request.role_selection.get(one.abstract_syntax)
            role = "SCP" if asked is not None and asked.scp_role else "SCU"
            self.seen.append((str(one.abstract_syntax), tuple(map(str, one.transfer_syntax)), role))


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A peer on loopback that takes every association, and answers everything with an error."""
    port = free_port()
    made = Recorder(Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, timeout=5))
    ae = AE(ae_title="PACS")
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    for service in (Verification, StudyRootQueryRetrieveInformationModelFind):
        ae.add_supported_context(service)
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[
        (evt.EVT_REQUESTED, made.on_requested), (evt.EVT_C_ECHO, lambda _: 0), (evt.EVT_C_FIND, lambda _: iter(())),
        (evt.EVT_C_STORE, lambda _: 0xA700), (evt.EVT_N_ACTION, lambda _: (0, None)),
    ])  # fmt: skip
    yield made
    server.shutdown()


@pytest.fixture
def told(tmp_path: Path) -> Statement:
    """The statement of a node with one peer."""
    return describe(Settings(home=tmp_path, peer=[SENDER]))


def says(told: Statement, activity: str) -> list[Context]:
    """Return the contexts that the statement names for an activity."""
    (one,) = [one for one in told.activities if one.name == activity]
    return [(c.abstract.uid, tuple(s.uid for s in c.syntaxes), c.role) for c in one.contexts]


def _report(recorder: Recorder) -> None:
    with report_to(recorder.peer, calling_ae="NODE"):
        pass


def _file(path: Path = Path("nowhere")) -> OutgoingFile:
    return OutgoingFile(
        path=path, sop_class=CTImageStorage, sop_uid="2.25.3", transfer_syntax=ExplicitVRLittleEndian,
        study_uid="2.25.1",
    )  # fmt: skip


ACTS: dict[str, Callable[[Recorder], object]] = {
    "Verify": lambda to: to.transport.echo(),
    "Look for results": lambda to: to.transport.find(_file()),
    "Count a study's instances": lambda to: list(to.transport.count(["2.25.1"])),
    "Ask for storage commitment": lambda to: to.transport.commit([_file()], "2.25.2", lambda: True),
    "Report on storage commitment": _report,
}


@pytest.mark.parametrize("activity", ACTS)
def test_each_activity_proposes_what_the_statement_says(activity: str, recorder: Recorder, told: Statement) -> None:
    """Abstract syntax, transfer syntaxes in their order, role."""
    ACTS[activity](recorder)
    assert recorder.seen == says(told, activity)


def test_results_are_proposed_as_the_statement_says(recorder: Recorder, told: Statement, tmp_path: Path) -> None:
    """One context for each class of the profile, in the syntax in which results are written."""
    wanted = [uid for uid, _ in classes_of(Profile())]
    images = synthetic_ct(slices=len(wanted))
    for image, uid in zip(images, wanted, strict=True):
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = uid
    files = zip(write_series(images, tmp_path / "out"), wanted, strict=True)
    results = [replace(_file(path), sop_class=uid, transfer_syntax=str(WRITTEN_IN)) for path, uid in files]
    list(recorder.transport.send(results))
    stated = [(c.abstract.uid, tuple(s.uid for s in c.syntaxes), c.role) for c in told.results["default"]]
    assert recorder.seen == stated


def test_an_examination_proposes_what_the_statement_says(recorder: Recorder, told: Statement) -> None:
    """Services and the classes of the profile."""
    wanted = [uid for uid, _ in classes_of(Profile())]
    services = [StudyRootQueryRetrieveInformationModelFind, StorageCommitmentPushModel]
    recorder.transport.takes([*wanted, *services])
    results = [(c.abstract.uid, tuple(s.uid for s in c.syntaxes), c.role) for c in told.results["default"]]
    assert sorted(recorder.seen) == sorted(says(told, "Examine") + results)


def negotiated(door: Door, *contexts: Any) -> dict[str, str]:
    """Return abstract -> transfer syntax of what the node accepts."""
    association = AE(ae_title="SCANNER").associate(
        "127.0.0.1", door.settings.port, contexts=list(contexts), ae_title=door.settings.ae_title
    )
    assert association.is_established
    found = {str(one.abstract_syntax): str(one.transfer_syntax[0]) for one in association.accepted_contexts}
    association.release()
    return found


def test_of_storage_the_first_syntax_is_taken_whatever_it_is(door: Door) -> None:
    """Also of a private class, also one that nobody knows."""
    found = negotiated(
        door,
        build_context(CTImageStorage, [JPEG_XL, ExplicitVRLittleEndian]),
        build_context("1.2.840.99999.1", ["1.2.840.99999.2", ExplicitVRLittleEndian]),
    )  # fmt: skip
    assert found == {CTImageStorage: JPEG_XL, "1.2.840.99999.1": "1.2.840.99999.2"}


def test_of_a_service_the_first_listed_syntax_is_taken(door: Door) -> None:
    """And a service that is not offered is refused."""
    find = build_context(StudyRootQueryRetrieveInformationModelFind)
    step = build_context(ModalityPerformedProcedureStep, [JPEG_XL, ExplicitVRLittleEndian])
    assert negotiated(door, step, find) == {ModalityPerformedProcedureStep: ExplicitVRLittleEndian}


def test_what_is_not_negotiated_is_ignored(door: Door) -> None:
    """An asynchronous window, a user identity and extended negotiation are asked for: none is answered."""
    window, user = AsynchronousOperationsWindowNegotiation(), UserIdentityNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    user.user_identity_type, user.primary_field, user.positive_response_requested = 1, b"bob", False
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CTImageStorage, b"\x01\x00"
    association = AE(ae_title="SCANNER").associate(
        "127.0.0.1", door.settings.port, contexts=[build_context(CTImageStorage)], ae_title=door.settings.ae_title,
        ext_neg=[window, user, extended],
    )  # fmt: skip
    assert association.is_established
    answered = {type(one).__name__ for one in association.acceptor.primitive.user_information}
    association.release()
    assert answered == {
        "MaximumLengthNotification", "ImplementationClassUIDNotification", "ImplementationVersionNameNotification",
    }  # fmt: skip
