"""When a study is complete: every mixture of evidence."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from node.domain.completion import LINGER, By, Evidence, Steps, Tally, Waits, compare, decide
from node.testing import NOON

WAITS = Waits(quiet=timedelta(seconds=60), longest=timedelta(minutes=90), patience=timedelta(minutes=30))
OPENED = NOON - timedelta(minutes=5)
SEEN = Evidence(opened_at=OPENED, last_at=NOON, here=412)
WHOLE = Tally(peer="PACS", there=412, lacking=0, fresh=True)
SHORT = replace(WHOLE, there=412, lacking=12)
THROUGH = Steps(completed=1, named=412)
SILENT = "the modality did not end its procedure step (MPPS) and was silent for 30 min"


def seconds(most: int) -> st.SearchStrategy[timedelta]:
    """Spans of whole seconds."""
    return st.integers(0, most).map(lambda n: timedelta(seconds=n))


tallies = st.builds(
    lambda there, lacking, fresh: Tally(peer="PACS", there=there, lacking=min(there, lacking), fresh=fresh),
    st.integers(1, 9), st.sampled_from([0, 0, 1, 5]), st.booleans(),
)  # fmt: skip
small = st.integers(0, 2)
steps = st.builds(
    Steps, in_progress=small, completed=small, discontinued=small, named=small, lacking=small, absent_series=small,
    heard_at=st.none() | seconds(6000).map(lambda age: NOON - age),
)
evidence = st.builds(
    lambda age, silent, **rest: Evidence(opened_at=NOON - age - silent, last_at=NOON - silent, here=5, **rest),
    seconds(6000), seconds(6000), sending=st.sampled_from([(), ("SCANNER",)]), tally=st.none() | tallies, steps=steps,
    listening_since=st.none() | seconds(6000).map(lambda age: NOON - age), deaf=st.booleans(),
    required=st.just(()), missing=st.sampled_from([(), ("FLAIR",)]), unasked=st.sampled_from(["", "away"]),
)  # fmt: skip
waits = st.builds(
    lambda quiet, more, patience: Waits(quiet=quiet, longest=quiet + more, patience=patience),
    seconds(120).map(lambda t: t + timedelta(seconds=1)), seconds(5400), seconds(4000),
)  # fmt: skip
every = settings(max_examples=400, deadline=None, derandomize=True)


@every
@given(evidence, waits)
def test_no_study_waits_beyond_the_longest_wait(seen: Evidence, given_waits: Waits) -> None:
    """Whatever lacks, whoever sends."""
    verdict = decide(seen, given_waits, now=seen.opened_at + given_waits.longest)
    assert verdict.by is not None
    assert verdict.reason


@every
@given(evidence, waits)
def test_silence_while_nobody_could_send_is_no_evidence(seen: Evidence, given_waits: Waits) -> None:
    """Neither while no listener lives nor until one has listened for as long as quiet must last."""
    listening = seen.listening_since or seen.last_at
    verdict = decide(seen, given_waits, now=NOON)
    if seen.deaf or listening + given_waits.quiet > NOON:
        assert verdict.by not in (By.QUIET, By.SERIES)


@every
@given(evidence, waits, st.integers(1, 9))
def test_what_is_known_to_lack_holds_a_study_up_to_its_longest_wait(
    seen: Evidence, given_waits: Waits, lacking: int
) -> None:
    """However quiet it is, whatever the modality says."""
    short = replace(seen, tally=Tally(peer="PACS", there=10, lacking=lacking, fresh=seen.tally is not None))
    verdict = decide(short, given_waits, now=NOON)
    if short.opened_at + given_waits.longest > NOON:
        assert verdict.by is None
        assert f"PACS counts {10 - lacking} of 10" in verdict.reason
    else:
        assert verdict.by is By.LONGEST
        assert f"only {10 - lacking} of 10 came" in verdict.reason


@every
@given(evidence, waits, seconds(6000))
def test_what_settles_now_settles_later(seen: Evidence, given_waits: Waits, later: timedelta) -> None:
    """Time alone never takes a verdict back."""
    if decide(seen, given_waits, now=NOON).by is not None:
        assert decide(seen, given_waits, now=NOON + later).by is not None


BETTER: dict[str, Any] = {
    "the association was released": {"sending": ()},
    "the required series came": {"missing": ()},
    "the peer's count is complete and fresh": {"tally": WHOLE},
    "the modality is through": {"steps": THROUGH},
}


@every
@given(evidence, waits, st.sampled_from(sorted(BETTER)))
def test_better_evidence_never_takes_a_verdict_back(seen: Evidence, given_waits: Waits, what: str) -> None:
    """The rule is monotone."""
    assume(decide(seen, given_waits, now=NOON).by is not None)
    better = replace(seen, **BETTER[what])
    if what == "the modality is through" and seen.tally is not None and seen.tally.lacking:
        return
    assert decide(better, given_waits, now=NOON).by is not None


@every
@given(evidence, waits, st.floats(0, 1))
def test_nothing_is_missed_by_not_looking_before_the_time_that_was_named(
    seen: Evidence, given_waits: Waits, part: float
) -> None:
    """While the evidence stays the same, so does the answer, up to `look_at`; and that is never past the longest."""
    verdict = decide(seen, given_waits, now=NOON)
    if verdict.by is not None:
        assert verdict.look_at is None
        return
    assert verdict.look_at is not None
    assert NOON < verdict.look_at <= seen.opened_at + given_waits.longest
    between = NOON + (verdict.look_at - NOON) * part
    if between < verdict.look_at:
        assert decide(seen, given_waits, now=between).by is None


@pytest.mark.parametrize(
    ("changes", "after", "by", "reason"),
    [
        ({}, 59, None, ""),
        ({}, 60, By.QUIET, "no instance for 60 s"),
        ({"sending": ("SCANNER",)}, 60, None, "waits: SCANNER may still send: its association is open"),
        ({"sending": ("SCANNER",)}, LINGER.total_seconds(), By.QUIET, "no instance for 60 s"),
        ({"tally": WHOLE}, 3, By.COUNT, "PACS counts 412 of 412, 3 s after the last image"),
        ({"tally": WHOLE, "sending": ("SCANNER",)}, 3, By.COUNT, "PACS counts 412 of 412, 3 s after the last image"),
        ({"tally": replace(WHOLE, fresh=False)}, 3, None, ""),
        ({"tally": SHORT}, 600, None, "waits: PACS counts 400 of 412"),
        (
            {"tally": SHORT}, 5400, By.LONGEST,
            "waited 90 min, the longest wait; only 400 of 412 came (PACS counts them)",
        ),
        ({"unasked": "away"}, 60, By.QUIET, "no instance for 60 s; its peer could not be asked for its count: away"),
        (
            {"steps": THROUGH}, 3, By.STEP,
            "the modality is through (MPPS) and all 412 came, 3 s after the last image",
        ),
        ({"steps": THROUGH, "tally": SHORT}, 600, None, "waits: PACS counts 400 of 412"),
        ({"steps": Steps(in_progress=1)}, 600, None, "waits: the modality is still at it (MPPS in progress)"),
        (
            {"steps": Steps(in_progress=1), "tally": WHOLE}, 3, None,
            "waits: the modality is still at it (MPPS in progress)",
        ),
        ({"steps": Steps(in_progress=1)}, 1799, None, "waits: the modality is still at it (MPPS in progress)"),
        ({"steps": Steps(in_progress=1)}, 1800, By.QUIET, f"no instance for 60 s; {SILENT}"),
        (
            {"steps": Steps(in_progress=1, heard_at=NOON + timedelta(seconds=60))}, 1859, None,
            "waits: the modality is still at it (MPPS in progress)",
        ),
        (
            {"steps": Steps(in_progress=1, heard_at=NOON + timedelta(seconds=60))}, 1860, By.QUIET,
            f"no instance for 60 s; {SILENT}",
        ),
        (
            {"steps": Steps(in_progress=1, heard_at=OPENED)}, 1799, None,  # images are a word, too
            "waits: the modality is still at it (MPPS in progress)",
        ),
        (
            {"steps": Steps(in_progress=1), "tally": WHOLE}, 1800, By.COUNT,
            f"PACS counts 412 of 412, 30 min after the last image; {SILENT}",
        ),
        (
            {"steps": Steps(in_progress=1), "tally": SHORT}, 5400, By.LONGEST,
            f"waited 90 min, the longest wait; only 400 of 412 came (PACS counts them); {SILENT}",
        ),
        (
            {"steps": Steps(in_progress=1), "missing": ("FLAIR",)}, 1800, None,
            "waits: required series 'FLAIR' did not come",
        ),
        (
            {"steps": replace(THROUGH, lacking=2)}, 60, None,
            "waits: 2 instances that the modality made did not come (MPPS)",
        ),
        (
            {"steps": replace(THROUGH, absent_series=3)}, 60, By.QUIET,
            "no instance for 60 s; of 3 series that the modality made (MPPS) nothing came",
        ),
        (
            {"steps": Steps(discontinued=1)}, 60, By.QUIET,
            "no instance for 60 s; the modality broke off a step (MPPS discontinued)",
        ),
        ({"required": ("FLAIR",), "missing": ("FLAIR",)}, 600, None, "waits: required series 'FLAIR' did not come"),
        ({"required": ("FLAIR",)}, 59, None, ""),
        ({"required": ("FLAIR",)}, 60, By.SERIES, "all required series came (FLAIR), no instance for 60 s"),
        (
            {"required": ("FLAIR",), "missing": ("FLAIR",)}, 5400, By.LONGEST,
            "waited 90 min, the longest wait; required series 'FLAIR' did not come",
        ),
    ],
)  # fmt: skip
def test_the_best_evidence_decides_and_says_so(changes: Any, after: float, by: By | None, reason: str) -> None:
    """One line each."""
    verdict = decide(replace(SEEN, **changes), WAITS, now=NOON + timedelta(seconds=after))
    assert (verdict.by, verdict.reason) == (by, reason)


def test_a_modality_whose_association_is_open_is_waited_for_however_short_the_patience() -> None:
    """Up to ten minutes after its last image."""
    hasty = replace(WAITS, patience=timedelta(seconds=90))
    seen = replace(SEEN, steps=Steps(in_progress=1), sending=("SCANNER",))
    verdict = decide(seen, hasty, now=NOON + timedelta(seconds=599))
    assert (verdict.by, verdict.look_at) == (None, NOON + LINGER)
    assert decide(seen, hasty, now=NOON + LINGER).by is By.QUIET
    assert decide(replace(seen, sending=()), hasty, now=NOON + timedelta(seconds=90)).by is By.QUIET


def test_a_trickle_ends_at_the_longest_wait() -> None:
    """An image every half minute for ever: the study is read all the same."""
    seen = replace(SEEN, opened_at=NOON - timedelta(minutes=90))
    assert decide(seen, WAITS, now=NOON).reason == "waited 90 min, the longest wait"


CT = {"1.1": ("CT", 300), "1.2": ("CT", 112)}


@pytest.mark.parametrize(
    ("there", "here", "ours", "shown"),
    [
        (CT, {"1.1": 300, "1.2": 112}, 0, (412, 0)),
        (CT, {"1.1": 300, "1.2": 100}, 0, (412, 12)),
        (CT, {"1.1": 300}, 0, (412, 112)),
        (CT, {"1.1": 305, "1.2": 100}, 0, (412, 12)),  # a series that has more makes up for none that has less
        ({**CT, "9": ("SR", 1), "8": ("PR", 4)}, {"1.1": 300, "1.2": 112}, 0, (412, 0)),
        ({**CT, "9": ("SR", 2)}, {"1.1": 300, "1.2": 112, "9": 1}, 0, (414, 1)),
        ({**CT, "7": ("OT", 3)}, {"1.1": 300, "1.2": 112}, 3, (412, 0)),  # our own pages
        ({**CT, "7": ("OT", 4)}, {"1.1": 300, "1.2": 112}, 3, (413, 1)),
        ({"": ("", 415)}, {"1.1": 300, "1.2": 112}, 3, (412, 0)),
        ({"": ("", 413)}, {"1.1": 300, "1.2": 112}, 0, (413, 1)),
    ],
)
def test_a_count_is_compared_series_by_series(
    there: dict[str, tuple[str, int]], here: dict[str, int], ours: int, shown: tuple[int, int]
) -> None:
    """What is only about images, and what this node made, lacks nobody."""
    tally = compare("PACS", there, here, ours=ours, fresh=True)
    assert tally is not None
    assert (tally.there, tally.lacking) == shown


def test_a_peer_that_counts_nothing_says_nothing() -> None:
    """It does not know the study, or has only reports of it."""
    assert compare("PACS", {}, {"1": 3}, ours=0, fresh=True) is None
    assert compare("PACS", {"": ("", 0)}, {"1": 3}, ours=0, fresh=True) is None
    assert compare("PACS", {"2": ("SR", 1)}, {"1": 3}, ours=0, fresh=True) is None
