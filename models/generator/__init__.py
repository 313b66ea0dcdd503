"""CT scans of nobody: bodies made of formulas, drawn at random, with labels that are exact by construction.

Anatomy, disease, contrast, grid, noise and artefacts differ from seed to seed; the same seed gives the same bits.
numpy and scipy only.
"""

from models.generator.body import AIRWAYS, LEFT_LUNG, PHASES, REGIONS, RIGHT_LUNG, Body, Lesion, Wish
from models.generator.crop import draw_crop
from models.generator.draw import draw_body

__all__ = [
    "AIRWAYS", "LEFT_LUNG", "PHASES", "REGIONS", "RIGHT_LUNG", "Body", "Lesion", "Wish", "draw_body", "draw_crop",
]  # fmt: skip
