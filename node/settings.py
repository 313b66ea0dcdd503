"""Everything an operator may set: one file, environment over file, read once and validated whole."""

from __future__ import annotations

import os
import re
import tomllib
from datetime import timedelta
from hashlib import sha256
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableEnvironment

from node.domain.completion import Waits
from node.domain.peer import SENDER, Counts, Papers, Peer, Verify
from node.domain.profile import DEFAULT, Language, Profile, SegType, Split, SrClass
from node.domain.rule import LateImages, Rule
from node.errors import NotFound, SettingsError

FILE_NAME = "pacs-node.toml"
_PREFIX = "PACS_NODE_"
_SOCKET_LIMIT = 100  # a unix socket path holds 107 bytes; leave room


def _ae_title(value: str) -> str:
    """1 to 16 printable ASCII characters without backslash (PS3.5, VR AE)."""
    title = value.strip()
    if not (1 <= len(title) <= 16 and title.isascii() and title.isprintable() and "\\" not in title):
        raise ValueError(f"not an AE title: {value!r} (1 to 16 printable ASCII characters, no backslash)")
    return title


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as why:
        raise ValueError(f"not a regular expression: {why}") from why
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError(f"not a name: {value!r} (letters, digits, '.', '_' and '-')")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _web_address(value: str) -> str:
    """The root of a DICOMweb service; what it knows us by stands in fields of its own, which are never shown."""
    if not value:
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("not the address of a DICOMweb service: https://host/path")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("a url has no user, password, query or fragment here: use token, or user and password")
    return value.rstrip("/")


def _loopback(value: str) -> str:
    """The page has no sign-in yet: nobody but this machine may reach it."""
    if not _is_loopback(value):
        raise ValueError(f"{value!r} is not loopback: the page has no sign-in yet; reach it through an ssh tunnel")
    return value


def _network(value: str) -> str:
    """An address, or a network as 10.1.2.0/24."""
    try:
        return str(ip_network(value, strict=False))
    except ValueError as why:
        raise ValueError(f"neither an address nor a network: {value!r}") from why


def _fingerprint(value: str) -> str:
    """The SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` writes it or without colons."""
    digits = value.rpartition("=")[2].replace(":", "").lower()
    if digits and not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("not a SHA-256 fingerprint: 64 hexadecimal digits (openssl x509 -noout -fingerprint -sha256)")
    return digits


AeTitle = Annotated[str, AfterValidator(_ae_title)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Name = Annotated[str, AfterValidator(_name)]


def _seconds(value: object) -> object:
    """The environment holds words only: a number among them is seconds, as in the file."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value  # ISO 8601, or a mistake that is named where it is parsed


Wait = Annotated[timedelta, Field(ge=timedelta(0)), BeforeValidator(_seconds)]
Duration = Annotated[timedelta, Field(gt=timedelta(0)), BeforeValidator(_seconds)]
_ORIENTATIONS = frozenset({"axial", "coronal", "sagittal", "oblique"})


class PeerSettings(BaseModel):
    """One ``[[peer]]``: a remote application entity or DICOMweb server that sends to the node, receives, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name  # how rules and commands call it
    ae_title: AeTitle | None = None  # with a url: only under which it sends to the node
    host: str = "127.0.0.1"
    port: int = Field(default=104, ge=1, le=65535)
    url: Annotated[str, AfterValidator(_web_address)] = ""  # of a DICOMweb server: results go there by STOW-RS
    token: SecretStr = SecretStr("")  # sent to url as a bearer token
    user: str = ""  # of basic authentication at url
    password: SecretStr = SecretStr("")
    may_send: bool = True  # it may store studies on the node
    addresses: tuple[Annotated[str, AfterValidator(_network)], ...] = ()  # it calls from these alone
    certificate: Annotated[str, AfterValidator(_fingerprint)] = ""  # SHA-256 of the only one that it may show
    tls: bool = False  # it is called over TLS, with the node's own certificate
    urgent: bool = False  # some associations are kept for peers like it
    timeout: float = Field(default=30.0, gt=0, le=600)  # seconds for connect, association and each answer
    profile: Name = DEFAULT  # in which objects it is told what was found
    verify: Verify = Verify.QUERY  # how the node makes sure that it has what it took
    count: Counts = Counts.NONE  # whether its own count says that a study which it sends is complete
    count_after: Duration = timedelta(seconds=3)  # without a new instance, before it is asked

    @model_validator(mode="after")
    def _reachable_in_one_way(self) -> PeerSettings:
        if not self.url and self.ae_title is None:
            raise ValueError("name its ae_title (and host and port), or the url of its DICOMweb service")
        secret = bool(self.token.get_secret_value() or self.user or self.password.get_secret_value())
        if secret and not self.url:
            raise ValueError("token, user and password are for a peer with a url")
        if self.token.get_secret_value() and self.user:
            raise ValueError("give a token, or user and password, not both")
        if secret and urlsplit(self.url).scheme != "https" and not _is_loopback(urlsplit(self.url).hostname or ""):
            raise ValueError("a token or password is only sent over https")
        if self.url and self.tls:
            raise ValueError("tls is for a peer that speaks DICOM: write its url with https://")
        if self.url and self.verify is Verify.COMMITMENT:
            raise ValueError("verify = 'commitment' needs DICOM: a peer with a url is asked by 'query'")
        if self.count is not Counts.NONE and self.ae_title is None:
            raise ValueError("count needs the ae_title under which the peer sends studies to the node")
        if self.count is not Counts.NONE and (self.count is Counts.QIDO) != bool(self.url):
            raise ValueError("count = 'qido' is for a peer with a url, count = 'c-find' for one without")
        return self

    def to_domain(self, papers: Papers | None = None) -> Peer:
        """Return the peer as the rest of the node knows it; *papers* are the node's own, for calls over TLS."""
        plain = {
            "ae_title": self.ae_title or "", "token": self.token.get_secret_value(),
            "password": self.password.get_secret_value(), "papers": papers if self.tls else None,
        }  # fmt: skip
        return Peer(**{**self.model_dump(exclude={"urgent", "tls"}), **plain})


class TlsSettings(BaseModel):
    """The ``[tls]`` table: DICOM over TLS, beside the plain port or in its place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(default=2762, ge=0, le=65535)  # 0: the node only calls over TLS, and takes no such calls
    certificate: Path  # PEM: the node's, and those between it and a root
    key: Path  # PEM
    authorities: Path | None = None  # PEM: who vouches for peers
    revoked: Path | None = None  # PEM: their revocation lists
    mutual: bool = True  # peers without a certificate are not let in
    only: bool = False  # the plain port is closed

    @model_validator(mode="after")
    def _can_be_done(self) -> TlsSettings:
        if self.mutual and self.authorities is None:
            raise ValueError("name the authorities that vouch for peers, or say mutual = false")
        if self.only and not self.port:
            raise ValueError("only = true with port = 0 would leave no port open")
        return self

    def papers(self, home: Path) -> Papers:
        """Return the files; relative names begin in *home*."""
        found = {name: None if (file := getattr(self, name)) is None else home / file for name in _PAPERS}
        return Papers(**{**found, "mutual": self.mutual})  # type: ignore[arg-type]


_PAPERS = ("certificate", "key", "authorities", "revoked")


class ProfileSettings(BaseModel):
    """One ``[[profile]]``: in which DICOM objects a peer is told what was found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    seg: SegType = SegType.BINARY
    binary_always: bool = False  # else FRACTIONAL where frames end inside a byte, which OHIF 3.13 paints as stripes
    seg_split: Split = Split.NONE
    seg_max_frames: int = Field(default=0, ge=0)  # of one Segmentation; 0: no limit
    sr: SrClass = SrClass.COMPREHENSIVE_3D
    secondary_capture: bool = True
    pdf: bool = False
    parametric_map: bool = False
    presentation_state: bool = False  # GSPS
    key_images: bool = False  # KOS
    allow_labelmap: bool = False  # released viewers paint label maps in wrong colours: LABELMAP asks for this too
    language: Language = Language.ENGLISH  # of code meanings

    @model_validator(mode="after")
    def _tells_something(self) -> ProfileSettings:
        if self.seg is SegType.LABELMAP and not self.allow_labelmap:
            raise ValueError(
                "seg = 'labelmap' is painted with wrong labels by released viewers (OHIF up to 3.14): where this "
                "peer's viewers are known to be right, say so with allow_labelmap = true"
            )
        objects = (self.secondary_capture, self.pdf, self.parametric_map, self.presentation_state, self.key_images)
        if self.seg is SegType.NONE and self.sr is SrClass.NONE and not any(objects):
            raise ValueError("the profile sends nothing: name at least one kind of object")
        return self

    def to_domain(self) -> Profile:
        """Return the profile as the encoders know it."""
        return Profile(**self.model_dump(exclude={"allow_labelmap"}))


class RuleSettings(BaseModel):
    """One ``[[rule]]``: the conditions that a series must all meet, the model to run, where the results go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    model: str
    modality: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    study_description: Pattern = ""
    series_description: Pattern = ""
    series_description_not: Pattern = ""
    min_slices: int = Field(default=0, ge=0)
    max_slices: int = Field(default=0, ge=0)
    min_slice_thickness: float = Field(default=0.0, ge=0)
    max_slice_thickness: float = Field(default=0.0, ge=0)
    orientation: tuple[str, ...] = ()
    image_type: tuple[str, ...] = ()
    image_type_not: tuple[str, ...] = ()
    manufacturer: Pattern = ""
    calling_ae: tuple[AeTitle, ...] = ()
    priority: int = Field(default=5, ge=1, le=9)
    deadline: Wait = timedelta(0)  # after settling, by which results should be at every destination; 0: none
    late_images: LateImages = LateImages.REVISE
    required_series: tuple[Pattern, ...] = ()
    destinations: tuple[str, ...] = (SENDER,)

    @model_validator(mode="after")
    def _known_words(self) -> RuleSettings:
        for value in self.orientation:
            if value not in _ORIENTATIONS:
                raise ValueError(f"orientation {value!r} is none of {', '.join(sorted(_ORIENTATIONS))}")
        return self

    def to_domain(self) -> Rule:
        """Return the rule as planning knows it."""
        return Rule(**self.model_dump())


_LUNG_CT: dict[str, Any] = {
    "modality": ("CT",),
    "body_part": ("CHEST", "LUNG", "THORAX", "CHESTABDPELVIS", "CHESTABDOMEN", "CHSTABDPELV"),
    "min_slices": 12,
    "max_slice_thickness": 5.0,
    "orientation": ("axial",),
    "image_type_not": ("LOCALIZER",),
}
DEFAULT_RULES = (
    RuleSettings(name="lungs", model="ct-lung", **_LUNG_CT),
    RuleSettings(name="nodules", model="ct-lung-nodule", **_LUNG_CT),
)


class Settings(BaseSettings):
    """Everything an operator may set, read once at start-up. Nothing else reads the environment."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    home: Path  # the node's own folder: configuration, store, results, database, sockets
    ae_title: AeTitle = "PACSAINODE"  # what peers call this node
    host: str = "0.0.0.0"  # noqa: S104  # a DICOM node listens to its hospital; peers are checked
    port: int = Field(default=11112, ge=1, le=65535)  # DICOM port
    tls: TlsSettings | None = None  # none: DICOM without TLS alone
    web_host: Annotated[str, AfterValidator(_loopback)] = "127.0.0.1"  # loopback until the page has a sign-in
    web_port: int = Field(default=8080, ge=1, le=65535)
    accept_unknown_senders: bool = False  # store for any calling AE title, not only for peers
    max_associations: int = Field(default=32, ge=1, le=500)
    max_associations_per_peer: int = Field(default=24, ge=1, le=500)  # for one calling AE title
    urgent_associations: int = Field(default=4, ge=0, le=100)  # of max_associations, kept for peers marked urgent
    association_timeout: float = Field(default=10.0, gt=0)  # seconds from a connection to its whole A-ASSOCIATE-RQ
    pdu_timeout: float = Field(default=30.0, gt=0)  # seconds from a PDU's first byte to its last
    max_pdu_bytes: int = Field(default=1 << 18, ge=1 << 14, le=1 << 20)  # what peers are told; more is an abort
    max_waiting: int = Field(default=512, ge=8, le=100_000)  # connections without an association
    max_waiting_per_address: int = Field(default=128, ge=1, le=100_000)
    network_timeout: float = Field(default=60.0, gt=0)  # seconds of silence after which an association is aborted
    max_instance_bytes: int = Field(default=2 << 30, ge=1 << 20)  # larger instances are refused with 0xA700
    journal_mib: int = Field(default=1024, ge=0, le=65536)  # of each listener, taken at its start; 0: none
    min_free_bytes: int = Field(default=1 << 30, ge=0)  # below this the node refuses instances with 0xA700
    disk_low_percent: float = Field(default=2.0, ge=0, le=50)  # with less of the disk free, associations are put off
    keep_inputs_days: float = Field(default=0.0, ge=0, le=36500)  # received images of finished studies; 0: for ever
    keep_results_days: float = Field(default=0.0, ge=0, le=36500)  # frozen results of finished studies; 0: for ever
    quiet_period: Duration = timedelta(seconds=60)  # silence after which a study is complete
    longest_wait: Duration = timedelta(minutes=90)  # then a study settles, whatever says that images lack
    mpps_patience: Duration = timedelta(minutes=30)  # with a modality that never ends its step, and says nothing
    sweep_interval: Duration = timedelta(seconds=2)
    database_url: SecretStr = SecretStr("")  # empty: SQLite in the home folder
    broker_url: SecretStr = SecretStr("")  # empty: a private Redis that `pacs-node up` starts
    node_id: str = ""  # goes into result UIDs; empty: made once and kept in the home folder
    uid_root: str = Field(default="2.25", pattern=r"^[0-9]+(\.[0-9]+)*$", max_length=24)
    manufacturer: str = "pacs-ai-node"  # written into results
    device_serial: str = "1"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")  # where models run
    gpu_workers: int = Field(default=1, ge=0, le=16)  # workers that run models
    io_workers: int = Field(default=1, ge=0, le=16)  # workers that deliver
    job_time_limit: Duration = timedelta(minutes=20)  # the model is stopped after this
    model_memory_mib: int = Field(default=0, ge=0)  # a model's process that uses more is stopped; 0: no limit
    max_attempts: int = Field(default=3, ge=1, le=20)
    lease: Duration = timedelta(seconds=60)
    heartbeat: Duration = timedelta(seconds=2)  # also how fresh the shown progress is
    retry_base: Duration = timedelta(seconds=5)  # first wait after a failed attempt or delivery; doubles
    retry_cap: Duration = timedelta(minutes=15)
    delivery_age_limit: Duration = timedelta(days=7)  # then a delivery is parked for a person
    drain_time: Wait = timedelta(minutes=2)  # how long a stopping node waits for running work
    log_format: str = Field(default="text", pattern="^(text|json)$")
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    profile: tuple[ProfileSettings, ...] = ()  # one called "default" replaces the built-in one
    peer: tuple[PeerSettings, ...] = ()
    rule: tuple[RuleSettings, ...] = DEFAULT_RULES

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file: what the file says is passed as initial values."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        names = {peer.name for peer in self.peer}
        _unique("peer", [peer.name for peer in self.peer])
        _unique("rule", [rule.name for rule in self.rule])
        _unique("peer's AE title", [peer.ae_title for peer in self.peer if peer.ae_title])  # results go back by it
        _unique("profile", [profile.name for profile in self.profile])
        known = {DEFAULT, *(profile.name for profile in self.profile)}
        for peer in self.peer:
            if peer.profile not in known:
                raise ValueError(f"peer {peer.name!r}: there is no profile {peer.profile!r}")
        for rule in self.rule:
            for destination in rule.destinations:
                if destination != SENDER and destination not in names:
                    raise ValueError(f"rule {rule.name!r}: there is no peer {destination!r} (nor is it 'sender')")
        if any(peer.urgent for peer in self.peer) and self.urgent_associations >= self.max_associations:
            raise ValueError("urgent_associations must be less than max_associations: some must be left for the others")
        if self.tls is None and (wanting := [p.name for p in self.peer if p.tls or p.certificate]):
            raise ValueError(f"peer {wanting[0]!r} is to be met over TLS: a [tls] table is missing")
        if self.longest_wait < self.quiet_period:
            raise ValueError("longest_wait must not be shorter than quiet_period")
        if self.heartbeat * 3 > self.lease:
            raise ValueError("lease must be at least three times heartbeat")
        return self

    @property
    def peers(self) -> tuple[Peer, ...]:
        """All peers."""
        return tuple(peer.to_domain(self.papers) for peer in self.peer)

    @property
    def papers(self) -> Papers | None:
        """The files for TLS; none where nothing is said of TLS."""
        return None if self.tls is None else self.tls.papers(self.home)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, in the order of the file."""
        return tuple(rule.to_domain() for rule in self.rule)

    @property
    def waits(self) -> Waits:
        """How long a study waits for more instances."""
        return Waits(quiet=self.quiet_period, longest=self.longest_wait, patience=self.mpps_patience)

    @property
    def profiles(self) -> dict[str, Profile]:
        """All profiles by name."""
        return {DEFAULT: Profile()} | {one.name: one.to_domain() for one in self.profile}

    def peer_named(self, name: str) -> Peer:
        """Return the peer of that name."""
        for peer in self.peers:
            if peer.name == name:
                return peer
        known = ", ".join(peer.name for peer in self.peers) or "none"
        raise NotFound(f"there is no peer {name!r}; known: {known}")

    @property
    def database(self) -> str:
        """The SQLAlchemy URL of the table."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.home / 'node.db'}"

    @property
    def broker(self) -> str:
        """The kombu URL of the broker."""
        return self.broker_url.get_secret_value() or f"redis+socket://{self.redis_socket}"

    @property
    def redis_socket(self) -> Path:
        """Where the embedded Redis listens; outside the home folder where its path would be too long."""
        socket = self.home / "run" / "redis.sock"
        if len(str(socket)) <= _SOCKET_LIMIT:
            return socket
        tag = sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(gettempdir()) / f"pacs-node-{os.getuid()}-{tag}" / "redis.sock"


def _unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two {what}s are called {twice[0]!r}")


def load_settings(home: Path | None = None) -> Settings:
    """Read the settings of the node that lives in *home*; SettingsError names each mistake and where it is."""
    folder = (home or Path(os.environ.get("PACS_NODE_HOME", "pacs-node-home"))).expanduser().resolve()
    file = folder / FILE_NAME
    values: dict[str, Any] = {}
    if file.is_file():
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as why:
            raise SettingsError(f"{file}: {why}") from why
    try:
        settings = Settings(**{**values, "home": folder})
    except ValidationError as why:
        lines = [f"{_source(error, file)}: {_place(error)}: {error['msg']}" for error in why.errors()]
        raise SettingsError("\n".join(lines)) from why
    except UnreadableEnvironment as why:
        raise SettingsError(f"environment: {why} (lists and tables are written as JSON)") from why
    return settings.model_copy(update={"home": folder})  # PACS_NODE_HOME chose the folder, a given one wins


def _source(error: Any, file: Path) -> str:
    """Name where a value came from: the environment wins over the file."""
    field = f"{_PREFIX}{error['loc'][0]}".upper() if error["loc"] else ""
    given = {name.upper() for name in os.environ}
    return f"environment {field}" if field in given else str(file)


def _place(error: Any) -> str:
    """Name the field as people count: the second rule is rule[2]."""
    parts = [f"[{part + 1}]" if isinstance(part, int) else str(part) for part in error["loc"]]
    return ".".join(parts).replace(".[", "[") or "settings"
