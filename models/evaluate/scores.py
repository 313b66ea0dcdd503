"""What scored marks are worth over many scans: FROC and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.evaluate.metrics import NOWHERE

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false marks a scan


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One mark of a model beside the reference."""

    score: float
    diameter_mm: float
    object: int  # the number of the object that it struck; NOWHERE or IGNORED where none
    dice: float | None = None  # of its mask and that object's


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """One scan: its lesions are numbered from 1."""

    lesions: int
    marks: tuple[Mark, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Froc:
    """Sensitivity over false marks a scan, as far as the model's own least score lets it go."""

    scans: int
    lesions: int
    found: int  # at the model's own least score
    false_marks_per_scan: float  # there
    sensitivity: tuple[float, ...]  # at each of RATES
    mean: float  # of these: the score of LUNA16


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """The marks whose score lies in one stretch."""

    low: float
    high: float
    marks: int
    mean_score: float
    true_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How far scores are what they seem: shares of true marks."""

    bins: tuple[Bin, ...]  # those with marks
    marks: int
    error: float  # expected calibration error, 0 to 1


def froc(scans: Sequence[Scan]) -> Froc | None:
    """Return the free-response curve of *scans*; None where there is no lesion.

    A threshold keeps the marks of at least that score; a lesion is found where one of them lies in it, and a second
    mark in it counts neither way. The sensitivity at a rate is the best of all thresholds with at most that many
    false marks a scan (Setio et al. 2017, 10.1016/j.media.2017.06.015).
    """
    lesions = sum(scan.lesions for scan in scans)
    if not lesions:
        return None
    marks = sorted(
        ((mark, number) for number, scan in enumerate(scans) for mark in scan.marks), key=lambda one: -one[0].score
    )
    curve, found, false = [(0.0, 0.0)], set[tuple[int, int]](), 0
    for place, (mark, number) in enumerate(marks):
        false += mark.object == NOWHERE
        if mark.object > 0:
            found.add((number, mark.object))
        if place + 1 == len(marks) or marks[place + 1][0].score < mark.score:  # equal scores stand or fall together
            curve.append((false / len(scans), len(found) / lesions))
    at = tuple(max(share for rate, share in curve if rate <= limit) for limit in RATES)
    return Froc(
        scans=len(scans), lesions=lesions, found=len(found), false_marks_per_scan=false / len(scans), sensitivity=at,
        mean=sum(at) / len(at),
    )  # fmt: skip


def calibration(marks: Sequence[Mark], bins: int = 10) -> Calibration | None:
    """Return the reliability of the scores in *bins* equal stretches of 0 to 1; None where no mark can be judged.

    The error is the mean of |share of true marks - mean score|, each stretch weighed by its marks (Naeini et al.
    2015, 10.1609/aaai.v29i1.9602). Marks in ignored places are left out.
    """
    judged = [mark for mark in marks if mark.object >= NOWHERE]
    if not judged:
        return None
    table = []
    for number in range(bins):
        inside = [mark for mark in judged if min(int(mark.score * bins), bins - 1) == number]
        if inside:
            table.append(
                Bin(
                    low=number / bins, high=(number + 1) / bins, marks=len(inside),
                    mean_score=sum(mark.score for mark in inside) / len(inside),
                    true_share=sum(mark.object > 0 for mark in inside) / len(inside),
                )
            )  # fmt: skip
    error = sum(one.marks * abs(one.true_share - one.mean_score) for one in table) / len(judged)
    return Calibration(bins=tuple(table), marks=len(judged), error=error)
