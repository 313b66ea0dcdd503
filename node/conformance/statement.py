"""The facts of the statement, gathered from settings and code; `page` puts them between its words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from pynetdicom import AE, _config
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated name
    StudyRootQueryRetrieveInformationModelFind,
    uid_to_service_class,
)

from node import __version__, tls
from node.conformance import statuses
from node.conformance.activities import SCP, Activity, Proposed, activities, results_of
from node.conformance.statuses import Abort, Rejection, Status
from node.conformance.syntaxes import Family, Name, families, named
from node.dicom.classes import WRITTEN_IN
from node.dicom.pixels import DECODED
from node.domain.profile import Language
from node.scp import storing
from node.scp.server import make_ae
from node.settings import PeerSettings, Settings

#: What is configured of the DICOM interface, as docs/configuration.md names it: never a secret.
_PARAMETERS = (
    "ae_title", "host", "port", "accept_unknown_senders", "max_associations", "max_associations_per_peer",
    "urgent_associations", "association_timeout", "network_timeout", "pdu_timeout", "max_pdu_bytes", "max_waiting",
    "max_waiting_per_address", "max_instance_bytes", "min_free_bytes", "disk_low_percent", "quiet_period",
    "longest_wait", "mpps_patience", "retry_base", "retry_cap", "delivery_age_limit", "keep_inputs_days",
    "keep_results_days", "uid_root", "manufacturer", "device_serial",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A SOP class and the roles that the node has in it."""

    abstract: Name
    user: bool
    provider: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """Presentation contexts that are accepted, and in which roles of the requestor."""

    storage: bool
    abstracts: tuple[Name, ...]
    families: tuple[Family, ...]
    roles: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """A peer as the configuration names it, without what the node is known by there."""

    name: str
    ae_title: str
    where: str
    tls: bool
    pinned: bool
    addresses: tuple[str, ...]
    may_send: bool
    urgent: bool
    profile: str
    verify: str
    count: str
    timeout: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A setting, its value and what it is where nobody sets it."""

    name: str
    value: str
    default: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the words refer to."""

    associations: int
    each: int  # for one calling AE title
    urgent: int  # kept for urgent peers
    strangers: bool  # every calling AE title is let in
    keep: str  # days for which received instances are kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Security:
    """TLS as it is configured."""

    port: int  # 0: none
    plain: bool  # whether the plain port is open
    mutual: bool
    revocation: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """Everything that is derived."""

    version: str
    ae_title: str
    host: str
    port: int
    implementation_class_uid: str
    implementation_version_name: str
    file_class_uid: str
    file_version_name: str
    services: tuple[Service, ...]
    storage: tuple[Name, ...]
    any_storage: bool  # private and unknown classes are stored, too
    accepted: tuple[Accepted, ...]
    pdu_accepting: int  # the longest PDU that peers are told, where they call
    pdu_calling: int  # and where we call
    activities: tuple[Activity, ...]
    results: dict[str, tuple[Proposed, ...]]
    written_in: Name
    remotes: tuple[Remote, ...]
    parameters: tuple[Parameter, ...]
    limits: Limits
    rejections: tuple[Rejection, ...]
    aborts: tuple[Abort, ...]
    statuses: dict[str, tuple[Status, ...]]
    security: Security | None
    suites: dict[str, list[str]]
    decoded: tuple[Family, ...]
    languages: tuple[str, ...]


def describe(settings: Settings) -> Statement:
    """Return what a node with these settings does over DICOM; no secret is in it."""
    ae = make_ae(settings)
    does = activities(settings)
    return Statement(
        version=__version__, ae_title=settings.ae_title, host=settings.host, port=settings.port,
        implementation_class_uid=str(ae.implementation_class_uid),
        implementation_version_name=str(ae.implementation_version_name),
        file_class_uid=storing.IMPLEMENTATION_UID, file_version_name=storing.IMPLEMENTATION_NAME.decode("ascii"),
        services=tuple(_services(ae, does)), storage=tuple(_storage(ae)),
        any_storage=bool(_config.UNRESTRICTED_STORAGE_SERVICE), accepted=_accepted(ae),
        pdu_accepting=settings.max_pdu_bytes, pdu_calling=ae.maximum_pdu_size, activities=does,
        results=dict(results_of(settings)), written_in=named(str(WRITTEN_IN)),
        remotes=tuple(_remote(one) for one in settings.peer), parameters=tuple(_parameters(settings)),
        limits=Limits(
            associations=settings.max_associations, each=settings.max_associations_per_peer,
            urgent=settings.urgent_associations, strangers=settings.accept_unknown_senders,
            keep=f"{settings.keep_inputs_days:g}",
        ),
        rejections=statuses.rejections(), aborts=statuses.aborts(), statuses=_statuses(), security=_security(settings),
        suites=tls.suites(), decoded=families(sorted(str(uid) for uid in DECODED)), languages=tuple(Language),
    )  # fmt: skip


def _is_storage(context: PresentationContext) -> bool:
    return uid_to_service_class(str(context.abstract_syntax)) is StorageServiceClass


def _storage(ae: AE) -> Iterator[Name]:
    """Yield the storage classes that are accepted, by name."""
    found = (named(str(one.abstract_syntax)) for one in ae.supported_contexts if _is_storage(one))
    yield from sorted(found, key=lambda one: one.name)


def _services(ae: AE, does: tuple[Activity, ...]) -> Iterator[Service]:
    """Yield every SOP class that is no storage class, and in which roles the node takes part in it."""
    provided = {str(one.abstract_syntax) for one in ae.supported_contexts if not _is_storage(one)}
    proposals = [one for activity in does for one in activity.contexts]
    provided |= {one.abstract.uid for one in proposals if one.role == SCP}
    used = {one.abstract.uid for one in proposals if one.role != SCP}
    find = str(StudyRootQueryRetrieveInformationModelFind)
    for uid in sorted(provided | used, key=lambda one: (one == find, named(one).name)):
        yield Service(abstract=named(uid), user=uid in used, provider=uid in provided)


def _accepted(ae: AE) -> tuple[Accepted, ...]:
    """Return the accepted contexts, those together that differ by their class alone."""
    groups: dict[tuple[bool, tuple[str, ...], str], list[Name]] = {}
    for one in ae.supported_contexts:
        syntaxes = tuple(str(uid) for uid in one.transfer_syntax)
        groups.setdefault((_is_storage(one), syntaxes, _roles(one)), []).append(named(str(one.abstract_syntax)))
    return tuple(
        Accepted(storage=storage, abstracts=tuple(names), families=families(syntaxes), roles=roles)
        for (storage, syntaxes, roles), names in sorted(groups.items(), key=lambda group: not group[0][0])
    )


def _roles(context: PresentationContext) -> str:
    if context.scu_role is None and context.scp_role is None:
        return "SCP"
    return "SCP; SCU by role selection (PS3.7 D.3.3.4)" if context.scp_role else "SCP"


def _remote(peer: PeerSettings) -> Remote:
    return Remote(
        name=peer.name, ae_title=peer.ae_title or "", where=peer.url or f"{peer.host}:{peer.port}", tls=peer.tls,
        pinned=bool(peer.certificate), addresses=peer.addresses, may_send=peer.may_send, urgent=peer.urgent,
        profile=peer.profile, verify=str(peer.verify), count=str(peer.count), timeout=peer.timeout,
    )  # fmt: skip


def _parameters(settings: Settings) -> Iterator[Parameter]:
    for name in _PARAMETERS:
        value, default = getattr(settings, name), Settings.model_fields[name].get_default()
        yield Parameter(name=name, value=_words(value), default=_words(default))


def _words(value: object) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _security(settings: Settings) -> Security | None:
    given = settings.tls
    if given is None:
        return None
    return Security(
        port=given.port, plain=not given.only, mutual=given.mutual, revocation=given.revoked is not None
    )


def _statuses() -> dict[str, tuple[Status, ...]]:
    return {
        "echo": statuses.answers(statuses.ECHO), "store": statuses.answers(statuses.STORE),
        "action": statuses.answers(statuses.ACTION), "failures": statuses.answers(statuses.FAILURES),
        "report": statuses.answers(statuses.REPORT), "step": statuses.answers(statuses.STEP),
        "not_served": statuses.answers(statuses.NOT_SERVED),
        "store_user": statuses.store_answers(), "find_user": statuses.find_answers(),
        "action_user": statuses.action_answers(), "failures_user": statuses.failure_reasons(),
        "report_user": statuses.report_answers(),
    }  # fmt: skip
