"""DICOM over TLS with real peers: who is let in, in which versions, and who is called."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # generated name

from node.domain.access import Caller, refusal
from node.domain.peer import Papers, Peer
from node.errors import PeerAway, PeerRefused, SettingsError
from node.health import _of_certificate
from node.settings import Settings
from node.testing import synthetic_ct, write_series
from node.tls import client_context, expires, fingerprint, server_context
from node.transport import open_transport
from tests.integration.conftest import Door, OpenDoor
from tests.rig import free_port, need


@dataclass
class Bureau:
    """An authority, and the papers that it gave out."""

    folder: Path
    authority: trustme.CA

    def issue(self, name: str, **how: Any) -> tuple[Path, Path, str]:
        """Return certificate, key and fingerprint of a new one for 127.0.0.1."""
        made = self.authority.issue_cert("127.0.0.1", common_name=name, **how)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(made.cert_chain_pems[0].bytes())
        key.write_bytes(made.private_key_pem.bytes())
        der = ssl.PEM_cert_to_DER_cert(certificate.read_text(encoding="ascii"))
        return certificate, key, fingerprint(der)

    @property
    def authorities(self) -> Path:
        """The file of the authority's own certificate."""
        file = self.folder / "authorities.pem"
        file.write_bytes(self.authority.cert_pem.bytes())
        return file

    def papers(self, name: str, **how: Any) -> Papers:
        """Return papers for whoever calls."""
        certificate, key, _ = self.issue(name, **how)
        return Papers(certificate=certificate, key=key, authorities=self.authorities)


@pytest.fixture
def bureau(tmp_path: Path) -> Bureau:
    """An authority of this test's own."""
    folder = tmp_path / "papers"
    folder.mkdir()
    return Bureau(folder, trustme.CA())


@pytest.fixture
def stranger(tmp_path: Path) -> Bureau:
    """Another authority, which the node does not know."""
    folder = tmp_path / "strange"
    folder.mkdir()
    return Bureau(folder, trustme.CA())


@pytest.fixture
def safe_door(open_door: OpenDoor, bureau: Bureau) -> Door:
    """A node that listens with TLS too, mutual."""
    return open_door(tls=table(bureau))


def table(bureau: Bureau, **more: Any) -> dict[str, Any]:
    """Return a [tls] table."""
    certificate, key, _ = bureau.issue("node")
    given = {"certificate": certificate, "key": key, "authorities": bureau.authorities}
    return {"port": free_port(), **given, **more}


def tls_port(door: Door) -> int:
    """Return where the door listens with TLS."""
    assert door.settings.tls is not None
    return door.settings.tls.port


def echo(door: Door, papers: Papers, **more: Any) -> float:
    """Ask the door over TLS whether it is there."""
    port = tls_port(door)
    peer = Peer(name="node", ae_title="PACSAINODE", host="127.0.0.1", port=port, papers=papers, timeout=5, **more)
    return open_transport(peer, calling_ae="SCANNER").echo()


def test_a_peer_with_a_certificate_stores_over_tls(safe_door: Door, bureau: Bureau, tmp_path: Path) -> None:
    """DCMTK's storescu, as hospitals use it; the bytes are those of the plain port."""
    certificate, key, _ = bureau.issue("scanner")
    files = write_series(synthetic_ct(slices=5), tmp_path / "images")
    command = [
        need("storescu"), "+tls", str(key), str(certificate), "+cf", str(bureau.authorities), "+px",
        "-aet", "SCANNER", "-aec", "PACSAINODE", "127.0.0.1", str(tls_port(safe_door)), *map(str, files),
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert len(safe_door.rows()) == len(safe_door.files()) == 5


def test_whoever_has_no_certificate_of_ours_is_not_let_in(
    safe_door: Door, bureau: Bureau, stranger: Bureau
) -> None:
    """None at all, one of another authority, one that is over; the right one is."""
    assert echo(safe_door, bureau.papers("scanner")) > 0
    foreign = stranger.papers("scanner")
    old = bureau.papers("old", not_after=datetime.now(UTC) - timedelta(days=1))
    for papers in (Papers(**{**_fields(foreign), "authorities": bureau.authorities}), old):
        with pytest.raises(PeerAway):
            echo(safe_door, papers)
    bare = ssl.create_default_context(cafile=str(bureau.authorities))
    with (
        socket.create_connection(("127.0.0.1", tls_port(safe_door)), 5) as plain,
        bare.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        pytest.raises(OSError),
    ):
        wrapped.recv(1)  # in 1.3 a client learns of it with its first answer
    assert echo(safe_door, bureau.papers("again")) > 0


def _fields(papers: Papers) -> dict[str, Any]:
    return {name: getattr(papers, name) for name in Papers.__slots__}


@pytest.mark.parametrize(
    ("version", "suites", "works"),
    [
        ("TLSv1_3", "", True), ("TLSv1_2", "ECDHE+AESGCM", True), ("TLSv1_2", "AES256-SHA256:@SECLEVEL=0", False),
        ("TLSv1_1", "ALL:@SECLEVEL=0", False), ("TLSv1", "ALL:@SECLEVEL=0", False),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_versions_and_suites_are_those_of_bcp_195(
    safe_door: Door, bureau: Bureau, version: str, suites: str, works: bool
) -> None:
    """1.2 with forward secrecy at least, whatever the other side would agree to."""
    context = client_context(bureau.papers("scanner"), pinned=True)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = context.minimum_version = ssl.TLSVersion[version]
    if suites:
        context.set_ciphers(suites)
    ae = AE(ae_title="SCANNER")
    ae.acse_timeout = ae.connection_timeout = 5
    ae.add_requested_context(Verification)
    association = ae.associate(
        "127.0.0.1", tls_port(safe_door), ae_title="PACSAINODE", tls_args=(context, "127.0.0.1")
    )
    assert association.is_established is works
    if works:
        association.release()


def test_a_revoked_certificate_is_not_let_in(open_door: OpenDoor, bureau: Bureau) -> None:
    """The list is read at start."""
    revoked, kept = bureau.papers("revoked"), bureau.papers("kept")
    door = open_door(tls=table(bureau, revoked=revocation_list(bureau, revoked.certificate)))
    assert echo(door, kept) > 0
    with pytest.raises(PeerAway):
        echo(door, revoked)


def revocation_list(bureau: Bureau, certificate: Path) -> Path:
    """Return a list of the authority on which *certificate* stands."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    one = x509.load_pem_x509_certificate(certificate.read_bytes())
    issuer = x509.load_pem_x509_certificate(bureau.authority.cert_pem.bytes())
    key: Any = serialization.load_pem_private_key(bureau.authority.private_key_pem.bytes(), None)
    now = datetime.now(UTC)
    entry = x509.RevokedCertificateBuilder().serial_number(one.serial_number).revocation_date(now).build()
    made = (
        x509.CertificateRevocationListBuilder().issuer_name(issuer.subject).last_update(now - timedelta(hours=1))
        .next_update(now + timedelta(days=1)).add_revoked_certificate(entry).sign(key, hashes.SHA256())
    )  # fmt: skip
    file = bureau.folder / "revoked-list.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return file


def test_a_pinned_certificate_is_the_only_one_for_its_title(open_door: OpenDoor, bureau: Bureau) -> None:
    """Another peer of the same authority cannot bear that title; over the plain port nobody can."""
    certificate, key, print_ = bureau.issue("scanner")
    peer = {"name": "scanner", "ae_title": "SCANNER", "certificate": print_}
    door = open_door(tls=table(bureau), peer=[peer])
    own = Papers(certificate=certificate, key=key, authorities=bureau.authorities)
    assert echo(door, own) > 0
    with pytest.raises(PeerRefused, match=r"(?i)calling AE title"):
        echo(door, bureau.papers("other"))
    plain = Peer(name="node", ae_title="PACSAINODE", host="127.0.0.1", port=door.settings.port, timeout=5)
    with pytest.raises(PeerRefused, match=r"(?i)calling AE title"):
        open_transport(plain, calling_ae="SCANNER").echo()


def test_the_plain_port_can_be_closed(open_door: OpenDoor, bureau: Bureau) -> None:
    """only = true."""
    door = open_door(tls=table(bureau, only=True))
    assert echo(door, bureau.papers("scanner")) > 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", door.settings.port), 2)


def test_who_is_silent_in_a_handshake_stands_in_nobody_s_way(safe_door: Door, bureau: Bureau) -> None:
    """F14: fifty say nothing, fifty break off in the ClientHello; a peer of ours is served at once."""
    papers = bureau.papers("scanner")
    with ExitStack() as stack:
        for number in range(100):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", tls_port(safe_door)), 5))
            if number % 2:
                silent.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03half a ClientHello")
        assert echo(safe_door, papers) > 0
    assert echo(safe_door, papers) > 0


def test_the_node_calls_over_tls_and_looks_whom_it_reaches(
    safe_door: Door, bureau: Bureau, stranger: Bureau
) -> None:
    """By authority and name, or by fingerprint; before anything is sent."""
    papers = bureau.papers("caller")
    assert safe_door.settings.papers is not None
    der = ssl.PEM_cert_to_DER_cert(safe_door.settings.papers.certificate.read_text(encoding="ascii"))
    assert echo(safe_door, papers, certificate=fingerprint(der)) > 0
    with pytest.raises(PeerRefused, match="another certificate"):
        echo(safe_door, papers, certificate="0" * 64)
    trusting_others = Papers(**{**_fields(papers), "authorities": stranger.authorities})
    with pytest.raises(PeerAway):
        echo(safe_door, trusting_others)


def test_papers_that_do_not_serve_are_named(bureau: Bureau, tmp_path: Path) -> None:
    """At start, with the file."""
    right = bureau.papers("node")
    assert expires(right.certificate) > datetime.now(UTC)
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing")
    for changed in ({"certificate": wrong}, {"key": tmp_path / "none.key"}, {"authorities": wrong}):
        file = next(iter(changed.values()))
        with pytest.raises(SettingsError, match=file.name):
            server_context(Papers(**{**_fields(right), **changed}))
    with pytest.raises(SettingsError, match="no certificate"):
        expires(wrong)


@pytest.mark.parametrize(
    ("days", "words"), [(40, ""), (12, "ends in 11 days"), (-1, "has ended")], ids=["fine", "soon", "over"]
)
def test_a_certificate_that_ends_is_somebody_s_turn(bureau: Bureau, tmp_path: Path, days: int, words: str) -> None:
    """`pacs-node status`, thirty days before."""
    now = datetime.now(UTC)
    certificate, key, _ = bureau.issue("node", not_after=now + timedelta(days=days))
    papers = {"certificate": certificate, "key": key, "authorities": bureau.authorities}
    said = [one.says for one in _of_certificate(Settings(home=tmp_path, tls=papers), now=now)]
    assert bool(said) is bool(words)
    assert all(words in one for one in said)
    assert not list(_of_certificate(Settings(home=tmp_path), now=now))


CT = Peer(name="ct", ae_title="CT", addresses=("10.1.0.0/16", "fe80::/10"), certificate="")
PINNED = Peer(name="mr", ae_title="MR", certificate="a" * 64)
OPEN = Peer(name="us", ae_title="US")


@pytest.mark.parametrize(
    ("title", "address", "certificate", "why"),
    [
        ("CT", "10.1.2.3", None, ""), ("CT", "::ffff:10.1.2.3", None, ""), ("CT", "fe80::1%eth0", None, ""),
        ("CT", "10.2.0.1", None, "address"), ("CT", "10.2.0.1", "b" * 64, "address"),
        ("MR", "1.2.3.4", "a" * 64, ""), ("MR", "1.2.3.4", None, "no certificate"),
        ("MR", "1.2.3.4", "b" * 64, "another certificate"), ("US", "1.2.3.4", None, ""),
        ("US", "1.2.3.4", "c" * 64, ""), ("XX", "1.2.3.4", None, "no peer"),
    ],
)  # fmt: skip
def test_who_may_come_in(title: str, address: str, certificate: str | None, why: str) -> None:
    """Certificate or address, and title: as a table."""
    said = refusal(
        Caller(ae_title=title, address=address, certificate=certificate), (CT, PINNED, OPEN), strangers=False
    )
    assert (why in said) if why else said == ""


@pytest.fixture(autouse=True)
def _openssl(tmp_path: Path) -> Iterator[None]:
    """Papers hold keys: they go with the test."""
    yield
    shutil.rmtree(tmp_path / "papers", ignore_errors=True)
