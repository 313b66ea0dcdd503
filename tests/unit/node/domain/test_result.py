"""The moves that a delivery can make."""

from __future__ import annotations

import pytest

from node.domain.result import MOVES, DeliveryState, check_move
from node.errors import IllegalMove


def test_every_state_has_its_moves_written_down() -> None:
    """A new state without a line in the table would stop a delivery for ever."""
    assert set(MOVES) == set(DeliveryState)


def test_a_delivery_that_nobody_knows_of_can_be_found_sent_again_or_parked() -> None:
    """The answer of the peer decides."""
    for state in (DeliveryState.ACKED, DeliveryState.SENDING, DeliveryState.RETRY_WAIT, DeliveryState.PARKED):
        check_move(1, DeliveryState.UNKNOWN, state)


def test_what_was_found_at_the_peer_is_over() -> None:
    """No move leads out; the refusal names both states."""
    for new in DeliveryState:
        with pytest.raises(IllegalMove, match=f"is verified and cannot become {new}"):
            check_move(1, DeliveryState.VERIFIED, new)


def test_what_a_peer_says_it_has_is_found_there_or_sent_again() -> None:
    """Or a person looks; it is never taken for unsent without a look."""
    assert MOVES[DeliveryState.ACKED] == {DeliveryState.VERIFIED, DeliveryState.QUEUED, DeliveryState.PARKED}


def test_what_was_cancelled_is_sent_only_on_a_person_s_word() -> None:
    """It is queued again, and goes the whole way."""
    check_move(1, DeliveryState.CANCELLED, DeliveryState.QUEUED)
    with pytest.raises(IllegalMove):
        check_move(1, DeliveryState.CANCELLED, DeliveryState.SENDING)
