"""Curves and calibrations, counted by hand."""

from __future__ import annotations

import pytest

from models.evaluate.metrics import IGNORED, NOWHERE
from models.evaluate.scores import RATES, Mark, Scan, calibration, froc


def mark(score: float, at: int) -> Mark:
    """A mark that struck object *at*."""
    return Mark(score=score, diameter_mm=8.0, object=at)


def test_the_curve_rises_with_the_false_marks_that_one_puts_up_with() -> None:
    """Two scans, three lesions. By falling score: hit, false, hit, the same again, false with a hit of equal score."""
    scans = [
        Scan(lesions=2, marks=(mark(0.9, 1), mark(0.8, NOWHERE), mark(0.6, 1), mark(0.5, 2))),
        Scan(lesions=1, marks=(mark(0.7, 1), mark(0.5, NOWHERE), mark(0.95, IGNORED))),
    ]
    curve = froc(scans)
    assert curve is not None
    assert (curve.scans, curve.lesions, curve.found, curve.false_marks_per_scan) == (2, 3, 3, 1.0)
    expected = dict(zip(RATES, (1 / 3, 1 / 3, 2 / 3, 1.0, 1.0, 1.0, 1.0), strict=True))
    assert dict(zip(RATES, curve.sensitivity, strict=True)) == pytest.approx(expected)
    assert curve.mean == pytest.approx(sum(expected.values()) / 7)


def test_lesions_of_the_same_number_in_two_scans_are_two() -> None:
    """Numbers count within a scan."""
    curve = froc([Scan(lesions=1, marks=(mark(0.9, 1),)), Scan(lesions=1, marks=())])
    assert curve is not None
    assert (curve.found, curve.lesions) == (1, 2)


def test_without_a_lesion_there_is_no_curve() -> None:
    """A share of nothing is no number."""
    assert froc([Scan(lesions=0, marks=(mark(0.9, NOWHERE),))]) is None


def test_scores_that_are_what_they_seem_have_no_error() -> None:
    """Half of the marks of 0.5 are true; those of 1.0 all are. Then they are not."""
    honest = [mark(0.5, 1), mark(0.5, NOWHERE), mark(1.0, 2)]
    table = calibration(honest)
    assert table is not None
    assert table.error == pytest.approx(0.0)
    assert [(one.low, one.marks, one.true_share) for one in table.bins] == [(0.5, 2, 0.5), (0.9, 1, 1.0)]
    boasting = calibration([mark(0.9, NOWHERE), mark(0.9, 1), mark(0.3, NOWHERE), mark(0.2, IGNORED)])
    assert boasting is not None
    assert boasting.marks == 3
    assert boasting.error == pytest.approx((2 * abs(0.5 - 0.9) + abs(0.0 - 0.3)) / 3)
    assert calibration([mark(0.9, IGNORED)]) is None
