"""Rules: which series of a study a model is asked for, as data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from node.domain.study import Series


class LateImages(StrEnum):
    """What images that come after a result was sent bring about."""

    REVISE = "revise"  #: a new result over all images, which names the one that it takes the place of
    KEEP = "keep"  #: nothing: the first result stands, and the job says so


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule: conditions that a series must all meet, the model to run, and where the results go.

    An empty condition always holds. A rule that several series of a study meet takes the best of them:
    most slices first, then thinnest; where the model declines that one, the next.
    """

    name: str
    model: str
    modality: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()  # compared without case; a series without BodyPartExamined passes
    study_description: str = ""  # regular expressions, searched without case
    series_description: str = ""
    series_description_not: str = ""
    min_slices: int = 0
    max_slices: int = 0  # 0: no upper limit
    min_slice_thickness: float = 0.0  # mm
    max_slice_thickness: float = 0.0  # mm; 0: no upper limit
    orientation: tuple[str, ...] = ()  # "axial", "coronal", "sagittal", "oblique"
    image_type: tuple[str, ...] = ()  # values that ImageType must hold
    image_type_not: tuple[str, ...] = ()  # values that ImageType must not hold
    manufacturer: str = ""
    calling_ae: tuple[str, ...] = ()
    priority: int = 5  # 1 (most urgent) to 9
    deadline: timedelta = timedelta(0)  # after settling, by which results should be at every destination; 0: none
    late_images: LateImages = LateImages.REVISE
    required_series: tuple[str, ...] = ()  # regular expressions: a study waits for a series that each of them matches
    destinations: tuple[str, ...] = ("sender",)

    def refusal(self, series: Series, study_description: str = "") -> str:
        """Return why this rule does not take *series*, or "" where it does."""
        checks = (self._refuse_words, self._refuse_numbers, self._refuse_image)
        why = next((why for check in checks if (why := check(series))), "")
        return why or _unlike("study description", self.study_description, study_description)

    def missing(self, series: Sequence[Series], study_description: str = "") -> tuple[str, ...]:
        """Return the required series that no series of a study is; nothing where the rule is not for such a study."""
        if not self.concerns(series, study_description):
            return ()
        here = [one.description for one in series if one.instances]
        return tuple(name for name in self.required_series if not any(_found(name, what) for what in here))

    def concerns(self, series: Sequence[Series], study_description: str = "") -> bool:
        """Return whether a study is of the kind that this rule requires series of."""
        if not self.required_series or _unlike("study description", self.study_description, study_description):
            return False
        return any(
            (not self.modality or one.modality in self.modality)
            and (not self.calling_ae or one.calling_ae in self.calling_ae)
            and not self._other_part(one)
            for one in series
        )

    def _other_part(self, series: Series) -> bool:
        wanted = {part.upper() for part in self.body_part}
        return bool(wanted and series.body_part and series.body_part.upper() not in wanted)

    def _refuse_words(self, series: Series) -> str:
        if self.modality and series.modality not in self.modality:
            return f"modality is {series.modality or 'not given'}, wanted {' or '.join(self.modality)}"
        if self._other_part(series):
            return f"body part is {series.body_part}, wanted {' or '.join(self.body_part)}"
        if self.calling_ae and series.calling_ae not in self.calling_ae:
            return f"sent by {series.calling_ae}, wanted {' or '.join(self.calling_ae)}"
        if self.series_description_not and _found(self.series_description_not, series.description):
            return f"series description matches {self.series_description_not!r}, which is excluded"
        return _unlike("series description", self.series_description, series.description) or _unlike(
            "manufacturer", self.manufacturer, series.manufacturer
        )

    def _refuse_numbers(self, series: Series) -> str:
        if series.instances < self.min_slices:
            return f"{series.instances} slices, wanted at least {self.min_slices}"
        if self.max_slices and series.instances > self.max_slices:
            return f"{series.instances} slices, wanted at most {self.max_slices}"
        thickness = series.slice_thickness
        if (self.min_slice_thickness or self.max_slice_thickness) and thickness is None:
            return "slice thickness is not given"
        if thickness is not None and thickness < self.min_slice_thickness:
            return f"slices are {thickness:g} mm thick, wanted at least {self.min_slice_thickness:g} mm"
        if thickness is not None and self.max_slice_thickness and thickness > self.max_slice_thickness:
            return f"slices are {thickness:g} mm thick, wanted at most {self.max_slice_thickness:g} mm"
        return ""

    def _refuse_image(self, series: Series) -> str:
        if self.orientation and series.orientation not in self.orientation:
            return f"orientation is {series.orientation or 'not given'}, wanted {' or '.join(self.orientation)}"
        for value in self.image_type:
            if value not in series.image_type:
                return f"image type lacks {value}"
        for value in self.image_type_not:
            if value in series.image_type:
                return f"image type holds {value}"
        return ""


def _found(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def _unlike(what: str, pattern: str, text: str) -> str:
    return "" if not pattern or _found(pattern, text) else f"{what} does not match {pattern!r}"


def best_first(series: Series) -> tuple[int, float, str]:
    """Sort key: the series that a model is best given comes first."""
    return -series.instances, series.slice_thickness or 99.0, series.uid
