"""The walk finds what the general reader finds, or says that it cannot tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.dicom import header
from node.dicom.walk import Damaged, Unusual, Walk
from node.domain.study import InstanceFacts
from node.errors import UnreadableInstance
from node.testing import part10, synthetic_ct


def outcome(make: Callable[[], InstanceFacts]) -> object:
    """Return the facts, or why there are none."""
    try:
        with header.quiet():
            return make()
    except UnreadableInstance as why:
        return str(why)


def test_every_file_of_the_test_data_gives_the_same_facts_both_ways(data_dir: Path) -> None:
    """A few of each collection; where the walk gives up, it gives up and guesses nothing."""
    seen = walked = 0
    for folder in sorted(path for path in data_dir.iterdir() if path.is_dir() and path.name != "malformed"):
        for file in sorted(folder.rglob("*.dcm"))[::25]:
            data = file.read_bytes()
            found = header._walked(file)
            seen += 1
            walked += found is not None
            if found is not None:
                general = outcome(lambda data=data: header._facts(header._read_header(data)))
                assert outcome(lambda found=found: header._facts(found)) == general, file
    assert seen > 40
    assert walked > 0.8 * seen


(FILE,) = (part10(one) for one in synthetic_ct(slices=1))


@settings(max_examples=200, deadline=None)
@given(place=st.integers(132, len(FILE) - 1), value=st.integers(0, 255), cut=st.integers(0, 40))
@example(place=140, value=255, cut=0)
def test_one_wrong_byte_is_read_or_refused(place: int, value: int, cut: int) -> None:
    """Never another exception, never without an end."""
    data = bytearray(FILE)
    data[place] = value
    try:
        header.read_facts(bytes(data[: len(data) - cut]))
    except UnreadableInstance as why:
        assert str(why)


def element(tag: tuple[int, int], length: int, value: bytes = b"") -> bytes:
    """Return one element in Implicit VR."""
    return b"".join(number.to_bytes(2, "little") for number in tag) + length.to_bytes(4, "little") + value


OPEN, CLOSE = element((8, 0x1140), 0xFFFFFFFF), element((0xFFFE, 0xE0DD), 0)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (element((8, 0x18), 100, b"1.2"), Damaged),
        (element((8, 0x18), 4, b"1.23") + b"\x10\x00", Damaged),
        (element((8, 0x1140), 0xFFFFFFFF), Damaged),
        (element((8, 0x1140), 0xFFFFFFFF) + element((8, 0x18), 0), Unusual),
        (element((8, 0x18), 0xFFFFFFFF) + element((0xFFFE, 0xE0DD), 0), Unusual),
        ((element((8, 0x1140), 0xFFFFFFFF) + element((0xFFFE, 0xE000), 0xFFFFFFFF)) * 5000, Damaged),
        (element((0xFFFE, 0xE00D), 0) + element((8, 0x18), 4, b"1.23"), Unusual),
        (OPEN + element((0xFFFE, 0xE000), 8) + OPEN + CLOSE + element((8, 0x18), 4, b"1.23"), Unusual),
        (OPEN + element((0xFFFE, 0xE000), 0xFFFFFFFF) + CLOSE + element((0xFFFE, 0xE00D), 0) + CLOSE, Unusual),
        (OPEN + element((0xFFFE, 0xE000), 100) + CLOSE, Damaged),
    ],
    ids=["value", "head", "sequence", "no item", "wanted", "deep", "the end of no item", "beyond its item",
         "the end of a sequence inside an item", "item"],
)
def test_what_is_cut_or_odd_is_said(data: bytes, error: type[Exception]) -> None:
    """B16, B18, B22: cut in an element, in a head, in a sequence; five thousand sequences in one another."""
    with pytest.raises(error):
        Walk(memoryview(data), 0, implicit=True).until((), {0x00080018})


def test_a_claim_of_gigabytes_takes_no_memory() -> None:
    """A wanted value is kept up to what any real one has."""
    data = element((0x10, 0x20), 1 << 20, b"x" * (1 << 20)) + element((0x7FE0, 0x10), 2, b"ab")
    found = Walk(memoryview(data), 0, implicit=True).until({0x7FE00010}, {0x00100020})
    assert len(found[0x00100020]) == 1 << 16


def test_a_header_behind_the_beginning_is_found_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first beginning is too short, the second is not; where both are, the general reader reads on."""
    file = tmp_path / "image.dcm"
    file.write_bytes(FILE)
    facts = header.read_facts(FILE)
    for beginnings in ((400, 1 << 20), (400, 500)):
        monkeypatch.setattr(header, "_BEGINNINGS", beginnings)
        assert header.read_facts(file) == facts
    file.write_bytes(FILE[:-1])
    monkeypatch.setattr(header, "_BEGINNINGS", (2000,))
    with pytest.raises(UnreadableInstance, match="cut short"):
        header.read_facts(file)
