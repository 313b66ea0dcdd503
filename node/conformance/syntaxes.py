"""UIDs with their names, and transfer syntaxes in the families that a reader thinks in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.uid import UID

#: The first family whose mark stands in a syntax's name is its family.
_FAMILIES = (
    ("High-Throughput JPEG 2000 (HTJ2K)", ("High-Throughput",)),
    ("JPIP, pixels elsewhere", ("JPIP",)),
    ("JPEG 2000", ("JPEG 2000",)),
    ("JPEG-LS", ("JPEG-LS",)),
    ("JPEG XL", ("JPEG XL",)),
    ("JPEG", ("JPEG ",)),
    ("RLE", ("RLE",)),
    ("Video: MPEG2, MPEG-4, HEVC", ("MPEG", "HEVC")),
    ("Live video and audio: SMPTE ST 2110", ("SMPTE",)),
    ("Deflated frames", ("Deflated Image Frame",)),
    ("Deflated", ("Deflated",)),
    ("Uncompressed", ("VR",)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Name:
    """A UID and what it is called."""

    uid: str
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Transfer syntaxes of one kind."""

    name: str
    syntaxes: tuple[Name, ...]


def named(uid: str) -> Name:
    """Return *uid* with its name of PS3.6."""
    return Name(uid=uid, name=UID(uid).name)


def families(uids: Iterable[str]) -> tuple[Family, ...]:
    """Return transfer syntaxes by family, as they come; what has none stands alone."""
    found: dict[str, list[Name]] = {}
    for one in (named(uid) for uid in uids):
        family = next((name for name, marks in _FAMILIES if any(mark in one.name for mark in marks)), one.name)
        found.setdefault(family, []).append(one)
    return tuple(Family(name=name, syntaxes=tuple(syntaxes)) for name, syntaxes in found.items())
