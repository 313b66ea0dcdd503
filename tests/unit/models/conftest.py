"""A thorax small enough for every test, and what the models find in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import catalogue
from models.contract import Findings, Volume
from models.phantom import Phantom, thorax_phantom

SMALL = (60, 128, 128)
SMALL_SPACING = (5.0, 2.8, 2.8)  # mm


def quiet(_done: float, _stage: str) -> None:
    """Take progress and keep silent."""


@pytest.fixture(scope="package", autouse=True)
def _two_threads() -> None:
    """Test machines are shared; torch would take every core."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="package")
def phantom() -> Phantom:
    """A thorax in coarse voxels."""
    return thorax_phantom(SMALL, SMALL_SPACING)


@pytest.fixture(scope="package")
def thorax(phantom: Phantom) -> Volume:
    """The phantom as a model sees it."""
    return Volume(voxels=phantom.voxels, affine=phantom.affine)


@pytest.fixture(scope="package")
def lungs(thorax: Volume) -> Findings:
    """What ct-lung finds in the phantom."""
    return catalogue.load("ct-lung", "cpu").run(thorax, quiet)


@pytest.fixture(scope="package")
def nodules(thorax: Volume) -> Findings:
    """What ct-lung-nodule finds in the phantom."""
    return catalogue.load("ct-lung-nodule", "cpu").run(thorax, quiet)


@pytest.fixture
def mirrored(thorax: Volume) -> Volume:
    """The phantom with left and right exchanged, on the same grid."""
    return Volume(voxels=np.ascontiguousarray(thorax.voxels[:, :, ::-1]), affine=thorax.affine)
