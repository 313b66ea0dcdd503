"""UIDs that are computed."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.domain.uid import derive_uid

LEGAL = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
PARTS = st.lists(st.text() | st.integers(), max_size=6)
ROOTS = st.sampled_from(["2.25", "1.2.3", "1.2.826.0.1.3680043.10.1234", "1.2.840.113619.2.55.3.604688119.969.1"])


@given(ROOTS, PARTS)
def test_every_uid_is_legal(root: str, parts: list[str | int]) -> None:
    """At most 64 characters, digits and dots, no leading zero in any component (PS3.5 section 9.1)."""
    uid = derive_uid(root, *parts)
    assert uid.startswith(root + ".") and len(uid) <= 64 and LEGAL.fullmatch(uid)


@given(PARTS)
def test_a_uid_under_2_25_is_a_uuid(parts: list[str | int]) -> None:
    """The number behind 2.25 is a UUID of version 8 (PS3.5 B.2, RFC 9562)."""
    uuid = UUID(int=int(derive_uid("2.25", *parts).removeprefix("2.25.")))
    assert uuid.version == 8 and uuid.variant == "specified in RFC 4122"


@given(ROOTS, PARTS, PARTS)
def test_different_work_has_different_uids(root: str, one: list[str | int], other: list[str | int]) -> None:
    """Two UIDs are equal when, and only when, their parts are."""
    same = [(type(p), p) for p in one] == [(type(p), p) for p in other]
    assert (derive_uid(root, *one) == derive_uid(root, *other)) is same


@pytest.mark.parametrize(
    ("one", "other"), [(("ab", "c"), ("a", "bc")), ((1,), ("1",)), ((), ("",)), (("a", ""), ("a",))]
)
def test_borders_between_parts_count(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> None:
    """Parts that read the same when joined are not the same work."""
    assert derive_uid("2.25", *one) != derive_uid("2.25", *other)


def test_a_uid_never_changes() -> None:
    """A value written down once: an update of the node must not make new objects of old work."""
    assert derive_uid("2.25", "node-7", "1.2.3", 1, "seg", 0) == "2.25.288241378515070972113947132238361145101"
    assert derive_uid("1.2.3", "node-7", "1.2.3", 1, "seg", 0) == "1.2.3.288241378515070972104723760201506369293"


@pytest.mark.parametrize("root", ["", "1..2", "1.02", "a.b", "2.25.", ".2", "1.2\n", "1." + "9" * 44])
def test_a_root_that_is_none_or_leaves_no_room_is_refused(root: str) -> None:
    """Not a root of UIDs, or too long for the hash behind it to be unique."""
    with pytest.raises(ValueError, match=r"root"):
        derive_uid(root, "x")
