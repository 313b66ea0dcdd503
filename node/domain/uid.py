"""Unique identifiers that are computed, never drawn: a rerun of the same work makes the same objects."""

from __future__ import annotations

import hashlib
import re

#: The root of UIDs made from UUIDs; it needs no registration (PS3.5 annex B.2).
UUID_ROOT = "2.25"
_MAX_LENGTH = 64  # PS3.5 section 9.1
_LEAST_BITS = 64  # fewer would make two results with one UID thinkable
_ROOT = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # PS3.5 section 9.1, lenient on leading zeros, which real devices send


def is_uid(text: str) -> bool:
    """Return whether *text* can be a UID."""
    return len(text) <= _MAX_LENGTH and _UID.fullmatch(text) is not None


def derive_uid(root: str, *parts: str | int) -> str:
    """Return the UID under *root* that belongs to *parts*: always the same, at most 64 characters.

    The last component is the decimal form of a truncated SHA-256 over the parts, each with its type and length, so that
    neither ("ab", "c") and ("a", "bc") nor 1 and "1" meet. Under 2.25 it is a UUID (RFC 9562, version 8: PS3.5 B.2).
    """
    if not _ROOT.fullmatch(root):
        raise ValueError(f"not the root of a UID: {root!r}")
    number = int.from_bytes(_digest(parts)[:16], "big")
    return f"{root}.{_as_uuid(number) if root == UUID_ROOT else number >> (128 - _room(root))}"


def _digest(parts: tuple[str | int, ...]) -> bytes:
    """SHA-256 over the parts, each as type, length and bytes."""
    state = hashlib.sha256()
    for part in parts:
        kind = b"i" if isinstance(part, int) else b"s"
        raw = str(part).encode()
        state.update(kind + len(raw).to_bytes(8, "big") + raw)
    return state.digest()


def _as_uuid(number: int) -> int:
    """Mark 128 bits as a UUID of version 8, the one for values that the maker defines."""
    number = (number & ~(0xF << 76)) | (0x8 << 76)  # version
    return (number & ~(0x3 << 62)) | (0x2 << 62)  # variant


def _room(root: str) -> int:
    """How many bits of a hash fit behind *root*, at most 128; ValueError where they are too few."""
    digits = _MAX_LENGTH - len(root) - 1
    most: int = 10 ** max(digits, 0)
    bits = min(128, most.bit_length() - 1)
    if bits < _LEAST_BITS:
        raise ValueError(f"the UID root {root!r} is too long: only {max(digits, 0)} characters are left behind it")
    return bits
