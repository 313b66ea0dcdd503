"""Findings drawn for people: overlay pictures, and the pages of the Secondary Capture.

No patient data is burned in, and the same findings always make the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from node.dicom.context import Pictures
from node.pictures.drawing import WARNING
from node.pictures.overlays import render_overlays
from node.pictures.pages import render_pages

__all__ = ["REPORT", "WARNING", "load_pictures", "render_overlays", "render_pages"]

PAGE, REPORT = "page-", "report.pdf"  # names of what becomes a Secondary Capture, and of the printed report


def load_pictures(folder: Path) -> Pictures:
    """Return what was drawn into *folder* for the Secondary Capture, in the order of the names, and the report."""
    report = folder / REPORT
    pages = []
    for path in sorted(folder.glob(f"{PAGE}*.png")):
        with Image.open(path) as image:
            pages.append(np.asarray(image.convert("RGB")))
    return Pictures(pages=tuple(pages), report=report.read_bytes() if report.is_file() else b"")
