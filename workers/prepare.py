"""`python -m workers.prepare --data DIR --out FOLDER`: real cases of the test data, as training reads them.

Only cases whose licence lets a product learn from them; one that is for non-commercial use is refused, whoever asks.
Each becomes an npz with voxels, place, labels and facts, which tell whence the labels are.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Mask, Volume
from models.evaluate.labels import read_label
from models.lungs import segment_lungs
from models.sampling import UNKNOWN
from models.train.pictures import save_panel
from models.train.sources import Case, save_case
from node.dicom.reader import read_series

_LEFT, _RIGHT = 1, 2  # as the generator counts
_GAS = -500.0  # HU
_DICOM = (".dcm", "")
_PICTURES = 4  # slices of each case, evenly spaced

Labels = NDArray[np.uint8]


class LicenceRefused(ValueError):
    """The licence of a case does not let a product learn from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One series of the test data, and what is known of it."""

    folder: str
    images: str = "dicom"
    region: str  # as the generator names it
    lungs: str = "none"  # "pseudo": by models.lungs; "none": none in view; "unknown"; else a label file
    left: tuple[int, ...] = ()  # values of the label file
    right: tuple[int, ...] = ()
    airways_unknown: bool = False  # the label file says nothing of airways that are in view
    nodules: str = ""  # label file; each component is a nodule
    nodule_centres: tuple[tuple[float, float, float], ...] = ()  # (L, P, S) mm, where there is no such file


SOURCES = (
    Source(folder="ct-chest-r01-001-every7th", region="chest", lungs="pseudo"),
    Source(folder="ct-chest-lidc-0001-slab", region="chest", lungs="pseudo", nodules="label-nodules.nrrd"),
    Source(
        folder="ct-chest-elastix-small", region="chest", lungs="label-right-lung.nrrd", right=(1,), airways_unknown=True
    ),
    Source(
        folder="ct-abdomen-totalseg-converted", region="abdomen", lungs="label-multiorgan.nii.gz", left=(10, 11),
        right=(12, 13, 14),
    ),
    Source(
        folder="ct-nodule-partsolid-crop", region="chest", lungs="unknown", nodule_centres=((184.5, 179.1, -259.0),)
    ),
    Source(folder="ct-abdomen-totalseg-dicom", region="abdomen"),
    Source(folder="ct-liver-3slice-seg", region="abdomen", lungs="unknown"),  # bases are in view, without a label
    Source(folder="ct-head-phantom-tilt", region="object"),
    Source(folder="petctmr-sts-002", images="ct", region="legs"),
)  # fmt: skip


def licence_of(folder: Path) -> str:
    """Return the licence that the case's reference.json names; LicenceRefused where it forbids commercial use."""
    licence = str(json.loads((folder / "reference.json").read_text(encoding="utf-8"))["licence"])
    if re.search(r"\bNC\b|non-?commercial|not for commercial", licence, re.IGNORECASE):
        raise LicenceRefused(f"{folder.name}: its licence is {licence}: nothing that ships may learn from it")
    return licence


def prepare(source: Source, data: Path) -> Case:
    """Return the case of *source* below *data*, its labels on the grid of its images."""
    folder = data / source.folder
    licence = licence_of(folder)
    images = sorted(file for file in (folder / source.images).iterdir() if file.suffix in _DICOM)
    volume = read_series(images).volume
    labels = _labels(source, folder, volume)
    facts = {
        "licence": licence, "region": source.region, "lungs": source.lungs,
        "nodules": _nodules(source, folder, volume),
    }  # fmt: skip
    return Case(name=source.folder, volume=volume, labels=labels, facts=facts)


def _labels(source: Source, folder: Path, volume: Volume) -> Labels:
    labels = np.zeros(volume.voxels.shape, np.uint8)
    if source.lungs == "none":
        return labels
    if source.lungs == "unknown":
        labels[:] = UNKNOWN
        return labels
    if source.lungs == "pseudo":
        lungs = segment_lungs(volume, lambda _done, _stage: None)
        labels[lungs.left], labels[lungs.right] = _LEFT, _RIGHT
    else:
        given = read_label(folder / source.lungs, volume)
        labels[np.isin(given, source.left)], labels[np.isin(given, source.right)] = _LEFT, _RIGHT
    if source.lungs == "pseudo" or source.airways_unknown:
        labels[_inner_gas(volume, labels > 0)] = UNKNOWN
    return labels


def _inner_gas(volume: Volume, lungs: Mask) -> Mask:
    """Return the gas that is neither lung nor around the body: airways, of which no label tells, and bowel.

    With 2 mm about it; what reaches the border of an axial slice is taken for the air around the body.
    """
    inner = (volume.voxels < _GAS) & ~lungs
    for z, plane in enumerate(inner):
        parts, _ = ndimage.label(plane)
        edge = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
        inner[z] = plane & ~np.isin(parts, edge)
    spread = ndimage.distance_transform_edt(~inner, sampling=volume.spacing) <= 2.0 if inner.any() else inner
    gas: Mask = spread & ~lungs
    return gas


def _nodules(source: Source, folder: Path, volume: Volume) -> list[dict[str, Any]]:
    """Return middle (L, P, S) and diameter of the ball of the same volume in mm; 0 where only the middle is known."""
    found: list[dict[str, Any]] = [{"centre_mm": list(one), "diameter_mm": 0.0} for one in source.nodule_centres]
    if source.nodules:
        parts, count = ndimage.label(read_label(folder / source.nodules, volume) > 0, np.ones((3, 3, 3)))
        for n in range(1, count + 1):
            z, y, x = np.argwhere(parts == n).mean(axis=0).tolist()
            ml = float((parts == n).sum()) * volume.voxel_ml
            diameter = float(np.cbrt(6000.0 * ml / np.pi))
            found.append({"centre_mm": list(volume.to_patient((z, y, x))), "diameter_mm": round(diameter, 2)})
    return found


def _save_pictures(case: Case, folder: Path) -> None:
    """Write some slices with and without their labels, what is unknown third, for somebody to look at."""
    for z in np.linspace(0, len(case.labels) - 1, _PICTURES + 2).round().astype(int)[1:-1].tolist():
        known = np.where(case.labels[z] == UNKNOWN, 0, case.labels[z]).astype(np.uint8)
        unknown = (case.labels[z] == UNKNOWN).astype(np.uint8) * 3
        save_panel(folder / f"{case.name}-{z}.png", case.volume.voxels[z], known, unknown)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m workers.prepare", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the test data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the prepared cases")
    parser.add_argument("--pictures", type=Path, help="also write slices with their labels here, to be looked at")
    options = parser.parse_args(arguments)
    for folder in (options.out, options.pictures):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        case = prepare(source, options.data)
        save_case(case, options.out / f"{case.name}.npz")
        if options.pictures is not None:
            _save_pictures(case, options.pictures)
        told = dict(zip(*(one.tolist() for one in np.unique(case.labels, return_counts=True)), strict=True))
        sys.stderr.write(f"{case.name}: {case.labels.shape}, labels {told}, nodules {case.facts['nodules']}\n")


if __name__ == "__main__":
    main()
