"""OHIF, driven as a radiologist drives it: open the study, open the result, scroll through it, look."""

from __future__ import annotations

import colorsys
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page
from playwright.sync_api import TimeoutError as NotInTime

_CANVAS = '[data-cy="viewport-pane"] canvas'
_PATIENCE = 60_000  # ms; software rendering on two cores


@dataclass(kw_only=True)
class Shown:
    """What was on the screen."""

    picture: Image.Image
    labels: list[str] = field(default_factory=list)  # of segments or measurements in the side panel
    text: str = ""  # all text of the page
    complaints: list[str] = field(default_factory=list)  # console errors, failed requests

    def painted(self, hue: float, tolerance: float = 14.0) -> np.ndarray:
        """Where (rows, columns) the picture shows a saturated colour of that *hue* in degrees."""
        pixels = np.asarray(self.picture.convert("RGB")).astype(float)
        spread = pixels.max(axis=2) - pixels.min(axis=2)
        hues = np.asarray(self.picture.convert("HSV"))[..., 0].astype(float) * 360 / 255
        away = np.abs((hues - hue + 180) % 360 - 180)
        found: np.ndarray = (spread > 40) & (away < tolerance)
        return found

    @property
    def is_black(self) -> bool:
        """Whether nothing at all was drawn."""
        return float(np.asarray(self.picture.convert("L")).std()) < 2


def hue_of(colour: tuple[int, int, int]) -> float:
    """The hue in degrees of an sRGB colour."""
    return colorsys.rgb_to_hsv(*(one / 255 for one in colour))[0] * 360


def show(
    browser: Browser, address: str, study_uid: str, description: str, keep: Path, *, scroll: int = 12,
    modality: str = "",
) -> Shown:  # fmt: skip
    """Open the series of that *description* (and *modality*) in the study and return what OHIF shows of it."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    complaints = _listen(page)
    try:
        page.goto(f"{address}/viewer?StudyInstanceUIDs={study_uid}")
        page.wait_for_selector(_CANVAS, timeout=_PATIENCE)
        _settle(page)
        if page.get_by_text("Skip all").count():
            page.get_by_text("Skip all").click()
        _open(page, description, modality)
        _scroll(page, scroll)
        _settle(page)
        canvas = page.locator(_CANVAS).first
        box = canvas.bounding_box() if canvas.count() else None
        png = page.screenshot()
        keep.write_bytes(png)
        whole = Image.open(io.BytesIO(png)).convert("RGB")
        picture = whole.crop((box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])) if box else whole
        return Shown(picture=picture, labels=_labels(page), text=page.inner_text("body"), complaints=complaints)
    finally:
        page.close()


def _listen(page: Page) -> list[str]:
    complaints: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(message.text[:300])

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)[:300]))
    page.on("response", lambda answer: answer.status < 400 or complaints.append(f"{answer.status} {answer.url}"))
    return complaints


def _open(page: Page, description: str, modality: str) -> None:
    """Double-click the thumbnail, and answer the question whether to load the result."""
    thumbnails = page.locator('[data-cy^="study-browser-thumbnail"]').filter(
        has_text=re.compile(rf"{modality}\s*{re.escape(description)}")  # the two stand beside each other
    )
    thumbnails.first.wait_for(timeout=_PATIENCE)
    thumbnails.first.dblclick()
    page.wait_for_timeout(3000)
    yes = page.get_by_role("button", name="Yes")
    if yes.count():
        yes.first.click()
    page.wait_for_timeout(2500)
    try:
        page.wait_for_function("!/Loading (SEG|SR|RTSTRUCT|PMAP)/.test(document.body.innerText)", timeout=30_000)
    except NotInTime:
        return  # the case says what it expected to see


def _scroll(page: Page, steps: int) -> None:
    canvas = page.locator(_CANVAS)
    if not canvas.count():
        return
    box = canvas.first.bounding_box()
    if box is None:
        return
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for _ in range(abs(steps)):
        page.mouse.wheel(0, 120 if steps > 0 else -120)
        page.wait_for_timeout(60)


def _settle(page: Page) -> None:
    """Wait until two pictures half a second apart are the same."""
    before = b""
    for _ in range(16):
        now = page.screenshot()
        if now == before:
            return
        before = now
        page.wait_for_timeout(500)


def _labels(page: Page) -> list[str]:
    for button in ("panelSegmentation-btn", "panelSegmentationWithToolsLabelMap-btn", "trackedMeasurements-btn"):
        if page.locator(f'[data-cy="{button}"]').count():
            page.locator(f'[data-cy="{button}"]').first.click()
            page.wait_for_timeout(800)
    return [text.strip() for text in page.locator('[data-cy="data-row"]').all_inner_texts()]
