"""Findings drawn for people: overlay pictures, the pages of the Secondary Capture, and the printed report.

No patient data is burned into a picture, and the same findings always make the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from node.dicom.context import Pictures
from node.pictures.declined import encode_declined
from node.pictures.overlays import render_overlays
from node.pictures.pages import PAGE, render_pages
from node.pictures.report import REPORT, write_report
from node.pictures.words import WARNING

__all__ = [
    "PAGE", "REPORT", "WARNING", "encode_declined", "load_pictures", "render_overlays", "render_pages", "write_report",
]  # fmt: skip


def load_pictures(folder: Path) -> Pictures:
    """Return what was drawn into *folder* for the Secondary Capture, in the order of the pages, and the report."""
    report = folder / REPORT
    pages = []
    for path in sorted(folder.glob(f"{PAGE}*.png"), key=lambda path: int(path.stem.removeprefix(PAGE))):
        with Image.open(path) as image:
            pages.append(np.asarray(image.convert("RGB")))
    return Pictures(pages=tuple(pages), report=report.read_bytes() if report.is_file() else b"")
