"""TLS as PS3.15 B.12 and BCP 195 (RFC 9325) have it: 1.2 at least, 1.3 preferred, both sides show who they are."""

from __future__ import annotations

import ssl
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509

from node.domain.peer import Papers
from node.errors import SettingsError

_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"  # RFC 9325 4.2, for 1.2; those of 1.3 are all good


def fingerprint(certificate: bytes) -> str:
    """Return the SHA-256 of a certificate (DER) in hexadecimal, small letters."""
    return sha256(certificate).hexdigest()


def expires(file: Path) -> datetime:
    """Return when the first certificate of a PEM file ends, aware, UTC."""
    try:
        return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as why:
        raise SettingsError(f"{file}: no certificate can be read: {type(why).__name__}") from why


def server_context(papers: Papers) -> ssl.SSLContext:
    """Return how the node takes connections; SettingsError names the file that is not right."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, papers)
    context.verify_mode = ssl.CERT_REQUIRED if papers.mutual else ssl.CERT_NONE
    return context


def client_context(papers: Papers, *, pinned: bool) -> ssl.SSLContext:
    """Return how the node opens connections.

    *pinned*: the peer's certificate is known by its fingerprint, so that neither its name nor its issuer matter.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, papers)
    if pinned:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def suites() -> dict[str, list[str]]:
    """Return the cipher suites that the node offers and takes, by TLS version, as this machine's OpenSSL has them."""
    found: dict[str, list[str]] = {}
    for one in _bare(ssl.PROTOCOL_TLS_CLIENT).get_ciphers():
        found.setdefault(one["protocol"], []).append(one["name"])
    return dict(sorted(found.items()))


def _bare(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def _context(protocol: int, papers: Papers) -> ssl.SSLContext:
    context = _bare(protocol)
    try:
        context.load_cert_chain(papers.certificate, papers.key)
    except (OSError, ssl.SSLError) as why:
        raise SettingsError(f"tls: {papers.certificate} and {papers.key} do not serve: {why}") from why
    for file in (papers.authorities, papers.revoked):
        if file is not None:
            try:
                context.load_verify_locations(file)
            except (OSError, ssl.SSLError) as why:
                raise SettingsError(f"tls: {file} does not serve: {why}") from why
    if papers.revoked is not None:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context
