"""OHIF in a real browser: open a study, open one of its series, and tell what is to be seen."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from playwright.sync_api import Browser, BrowserContext, Locator

from tests.viewers.picture import Picture

#: What OHIF 3.13.2 complains of whatever it shows: part of the message, and why it is let through.
ALLOWED: dict[str, str] = {}

_LOADED = 60.0  # seconds; two busy processors and no graphics card
_OPENED = 45.0
_PAINTED = 20.0
_PANELS = {"SEG": "panelSegmentation-btn", "SR": "trackedMeasurements-btn"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """What was to be seen when all had come to rest."""

    picture: Picture
    place: str  # what the viewport says of the slice: "I:12 (13/24)"
    labels: tuple[str, ...]  # rows of the panel of segments
    text: str  # all text of the page
    complaints: tuple[str, ...]  # console errors, script errors, answers of 400 and more that are not allowed

    @property
    def position(self) -> int:
        """Which slice of the stack is shown, from 1; 0 where the viewport does not say."""
        return _position(self.place)


class Ohif:
    """The viewer at an address."""

    def __init__(self, browser: Browser, address: str) -> None:
        self._browser, self._address = browser, address

    @contextmanager
    def study(self, uid: str) -> Iterator[Viewer]:
        """Open a study in a browser without a past."""
        context = self._browser.new_context(viewport={"width": 1400, "height": 900})
        try:
            yield Viewer(context, f"{self._address}/viewer?StudyInstanceUIDs={uid}")
        finally:
            context.close()


class Viewer:
    """One study in one tab."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self._page = context.new_page()
        self._complaints: list[str] = []
        self._page.on("pageerror", lambda error: self._complain(f"script: {error}"))
        self._page.on("console", lambda said: self._complain(f"console: {said.text}") if said.type == "error" else None)
        self._page.on("response", lambda a: self._complain(f"{a.status}: {a.url}") if a.status >= 400 else None)
        self._page.goto(address)
        self._viewport.locator("canvas").first.wait_for(timeout=_LOADED * 1000)
        skip = self._page.get_by_text("Skip all")  # the tour of the first visit
        skip.wait_for(timeout=_LOADED * 1000)
        skip.click()
        self._wait(_LOADED, lambda: self.picture().pixels.max() > 100)

    @property
    def _viewport(self) -> Locator:
        return self._page.locator('[data-cy="viewport-pane"]').first

    def _complain(self, what: str) -> None:
        if not any(part in what for part in ALLOWED):
            self._complaints.append(what)

    def _wait(self, limit: float, true: Callable[[], bool]) -> bool:
        """Return whether *true* came true within *limit* seconds."""
        deadline = time.monotonic() + limit
        while not true():
            if time.monotonic() > deadline:
                return False
            self._page.wait_for_timeout(300)
        return True

    def picture(self) -> Picture:
        """Return the viewport as it is now."""
        return Picture.of_png(self._viewport.screenshot())

    def series(self) -> list[str]:
        """Return the modalities of the series in the list."""
        return self._page.locator('[data-cy="series-modality-label"]').all_inner_texts()

    def open(self, modality: str) -> None:
        """Open the series of *modality* by a double click, and say yes where OHIF asks whether to load it."""
        label = self._page.locator('[data-cy="series-modality-label"]', has_text=re.compile(f"^{modality}$"))
        self._page.locator('[data-cy^="study-browser-thumbnail"]').filter(has=label).first.dblclick()
        if modality == "SEG":
            self._page.get_by_role("button", name="Yes").first.click(timeout=_OPENED * 1000)
        if modality in _PANELS:
            self._page.locator(f'[data-cy="{_PANELS[modality]}"]').first.click()

    def scroll_to(self, position: int) -> None:
        """Turn the wheel until the viewport says that it shows slice *position* (from 1) of the stack."""
        here = self._viewport.locator("canvas").first.bounding_box()
        assert here
        self._page.mouse.move(here["x"] + here["width"] / 2, here["y"] + here["height"] / 2)
        deadline = time.monotonic() + _OPENED
        while (now := self.position()) != position:
            assert time.monotonic() < deadline, f"slice {now} is shown, {position} was wanted"
            self._page.mouse.wheel(0, 120 if now < position else -120)
            self._wait(3, lambda was=now: self.position() != was)  # type: ignore[misc]

    def place(self) -> str:
        """Return what the viewport says of its slice."""
        said = self._viewport.inner_text()
        found = re.search(r"I: *\d+ \(\d+/\d+\)", said)
        return found.group() if found else ""

    def position(self) -> int:
        """Return which slice of the stack is shown, from 1; 0 where the viewport does not say."""
        return _position(self.place())

    def next(self) -> None:
        """Go on to the next thing that the report points at."""
        before = self.place()
        self._page.locator('[data-cy="viewport-action-arrows-right"]').first.click()
        self._wait(_PAINTED, lambda: self.place() != before)

    def rest(self, until: Callable[[Picture], bool] = lambda _: True) -> Shown:
        """Return what is shown once it meets *until* and no longer changes, or after a while."""
        seen = [self.picture()]

        def rested() -> bool:
            seen.append(self.picture())
            return bool((seen[-1].pixels.shape == seen[-2].pixels.shape)
                        and (seen[-1].pixels == seen[-2].pixels).all() and until(seen[-1]))  # fmt: skip

        self._wait(_PAINTED, rested)
        return Shown(
            picture=seen[-1], place=self.place(), labels=tuple(self._labels()),
            text=self._page.locator("body").inner_text(), complaints=tuple(self._complaints),
        )  # fmt: skip

    def wait_for_labels(self) -> bool:
        """Wait until the open panel has rows; return whether it has."""
        return self._wait(_OPENED, lambda: bool(self._labels()))

    def wait_for_text(self, text: str) -> bool:
        """Wait until *text* stands somewhere on the page; return whether it does."""
        return self._wait(_OPENED, lambda: text in self._page.locator("body").inner_text())

    def wait_for_black(self) -> bool:
        """Wait until the viewport is black; return whether it is."""
        return self._wait(_PAINTED, lambda: self.picture().is_black)

    def _labels(self) -> list[str]:
        rows = self._page.locator('[data-cy="data-row"]').all_inner_texts()
        return [re.sub(r"^\d+\s*", "", row).strip() for row in rows]


def _position(place: str) -> int:
    found = re.search(r"\((\d+)/", place)
    return int(found.group(1)) if found else 0
