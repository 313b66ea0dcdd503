"""Who may come in: an AE title is a name, an address or a certificate is what shows that it is rightly borne."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from node.domain.peer import Peer


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Whoever asks for an association."""

    ae_title: str
    address: str
    certificate: str | None  # SHA-256 of what it showed; none: it came without TLS, or showed none


def refusal(caller: Caller, peers: Iterable[Peer], *, strangers: bool) -> str:
    """Return why *caller* is not let in; "" where it is. *strangers*: AE titles of no peer are let in.

    A peer with addresses comes from one of them, one with a certificate shows it: whoever else bears its title is
    not it.
    """
    known = next((peer for peer in peers if peer.ae_title == caller.ae_title), None)
    if known is None:
        return "" if strangers else "no peer has this AE title"
    if known.certificate and caller.certificate != known.certificate:
        return "it showed no certificate" if caller.certificate is None else "it showed another certificate"
    if known.addresses and not any(_within(caller.address, network) for network in known.addresses):
        return "it comes from an address that is not the peer's"
    return ""


def _within(address: str, network: str) -> bool:
    found = ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found) in ip_network(network, strict=False)
