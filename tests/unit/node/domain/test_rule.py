"""Rules: each condition takes and refuses what it says, with a reason for people."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.domain.rule import Rule, best_first
from node.domain.study import Series

SERIES = Series(
    uid="2.25.1", study_uid="2.25", modality="CT", body_part="CHEST", description="Thorax 2.5 soft", number=2,
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"), instances=120, slice_thickness=2.5, orientation="axial",
    manufacturer="Maker Inc.", calling_ae="SCANNER1",
)  # fmt: skip

REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"modality": ("MR", "PT")}, {}, "modality is CT, wanted MR or PT"),
    ({"modality": ("CT",)}, {"modality": ""}, "modality is not given, wanted CT"),
    ({"body_part": ("HEAD",)}, {}, "body part is CHEST, wanted HEAD"),
    ({"series_description": "lung"}, {}, "series description does not match 'lung'"),
    ({"series_description_not": "SOFT"}, {}, "series description matches 'SOFT', which is excluded"),
    ({"study_description": "liver"}, {}, "study description does not match 'liver'"),
    ({"manufacturer": "^other"}, {}, "manufacturer does not match '^other'"),
    ({"calling_ae": ("SCANNER2",)}, {}, "sent by SCANNER1, wanted SCANNER2"),
    ({"min_slices": 121}, {}, "120 slices, wanted at least 121"),
    ({"max_slices": 119}, {}, "120 slices, wanted at most 119"),
    ({"min_slice_thickness": 3.0}, {}, "slices are 2.5 mm thick, wanted at least 3 mm"),
    ({"max_slice_thickness": 2.0}, {}, "slices are 2.5 mm thick, wanted at most 2 mm"),
    ({"max_slice_thickness": 5.0}, {"slice_thickness": None}, "slice thickness is not given"),
    ({"min_slice_thickness": 1.0}, {"slice_thickness": None}, "slice thickness is not given"),
    ({"orientation": ("coronal",)}, {}, "orientation is axial, wanted coronal"),
    ({"orientation": ("axial",)}, {"orientation": ""}, "orientation is not given, wanted axial"),
    ({"image_type": ("DERIVED",)}, {}, "image type lacks DERIVED"),
    ({"image_type_not": ("LOCALIZER",)}, {"image_type": ("ORIGINAL", "LOCALIZER")}, "image type holds LOCALIZER"),
]
TAKEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"modality": ("MR", "CT")}, {}),
    ({"body_part": ("chest",)}, {}),
    ({"body_part": ("HEAD",)}, {"body_part": ""}),  # many devices leave it out
    ({"series_description": "SOFT$"}, {}),
    ({"series_description_not": "lung"}, {}),
    ({"study_description": "thorax"}, {}),
    ({"manufacturer": "maker"}, {}),
    ({"calling_ae": ("SCANNER1",)}, {}),
    ({"min_slices": 120, "max_slices": 120}, {}),
    ({"min_slice_thickness": 2.5, "max_slice_thickness": 2.5}, {}),
    ({}, {"slice_thickness": None}),
    ({"orientation": ("coronal", "axial")}, {}),
    ({"image_type": ("PRIMARY", "ORIGINAL"), "image_type_not": ("LOCALIZER",)}, {}),
]


def rule(**conditions: Any) -> Rule:
    """Return a rule with these conditions."""
    return Rule(name="r", model="m", **conditions)


@pytest.mark.parametrize(("conditions", "changes", "why"), REFUSED)
def test_a_condition_that_does_not_hold_refuses_with_its_reason(
    conditions: dict[str, Any], changes: dict[str, Any], why: str
) -> None:
    """The reason names what was found and what was wanted."""
    assert rule(**conditions).refusal(replace(SERIES, **changes), "CT Thorax") == why


@pytest.mark.parametrize(("conditions", "changes"), TAKEN)
def test_a_condition_that_holds_refuses_nothing(conditions: dict[str, Any], changes: dict[str, Any]) -> None:
    """An empty reason: the rule takes the series."""
    assert rule(**conditions).refusal(replace(SERIES, **changes), "CT Thorax") == ""


def test_every_condition_of_a_rule_has_a_refusal_in_the_table() -> None:
    """A new condition comes with its case here."""
    no_conditions = {"name", "model", "priority", "deadline", "late_images", "required_series", "destinations"}
    conditions = set(Rule.__dataclass_fields__) - no_conditions
    assert conditions == {name for case, _, _ in REFUSED for name in case}


@given(least=st.integers(0, 300), most=st.integers(0, 300), slices=st.integers(0, 300))
def test_slice_limits_are_inclusive_and_zero_means_none(least: int, most: int, slices: int) -> None:
    """Compared with the plain sentence of the documentation."""
    taken = rule(min_slices=least, max_slices=most).refusal(replace(SERIES, instances=slices)) == ""
    assert taken == (least <= slices and (most == 0 or slices <= most))


def test_the_best_series_has_most_slices_then_the_thinnest_then_the_first_uid() -> None:
    """The order is total, so that the same study is always planned the same way."""
    many = replace(SERIES, uid="2.25.9", instances=300, slice_thickness=5.0)
    thin = replace(SERIES, uid="2.25.8", slice_thickness=1.0)
    unknown = replace(SERIES, uid="2.25.7", slice_thickness=None)
    twin = replace(SERIES, uid="2.25.0")
    order = sorted([unknown, SERIES, twin, thin, many], key=best_first)
    assert order == [many, thin, twin, SERIES, unknown]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({}, ()),
        ({"required_series": ("thorax",)}, ()),
        ({"required_series": ("thorax", "flair")}, ("flair",)),
        ({"required_series": ("flair",), "modality": ("MR",)}, ()),
        ({"required_series": ("flair",), "body_part": ("HEAD",)}, ()),
        ({"required_series": ("flair",), "calling_ae": ("OTHER",)}, ()),
        ({"required_series": ("flair",), "study_description": "brain"}, ()),
    ],
)
def test_a_rule_misses_series_of_studies_of_its_kind_only(changes: dict[str, Any], missing: tuple[str, ...]) -> None:
    """A chest CT does not wait for the FLAIR of a brain."""
    rule = Rule(name="r", model="m", **changes)
    assert rule.missing([SERIES], "CT Thorax") == missing


def test_a_series_without_an_image_is_not_there() -> None:
    """Its report alone came."""
    rule = Rule(name="r", model="m", required_series=("thorax",))
    assert rule.missing([replace(SERIES, instances=0)]) == ("thorax",)
