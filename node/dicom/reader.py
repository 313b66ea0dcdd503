"""A series of single-frame images to a volume: what is irregular is refused with a reason rather than guessed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from models.contract import Mask, Volume
from node.dicom import geometry
from node.dicom.geometry import Canonical, GeometryError, Stack
from node.dicom.pixels import decode_frame
from node.errors import InputInvalid

_FEWEST = 3  # slices that make a volume
_MAJORITY = 0.9  # share of a series that must agree before the rest is left out
_AIR = -1024.0  # HU, what CT padding is read as
_POSITION_ROUNDING = 6  # decimals of cosines that count as the same orientation


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SourceSeries:
    """The images that make the volume, in the order of the slices on the source grid."""

    headers: tuple[Dataset, ...]  # without pixel data
    paths: tuple[Path, ...]
    stack: Stack
    remarks: tuple[str, ...]  # what was left out, in sentences


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedSeries:
    """A series with its pixels decoded, turned for the models."""

    source: SourceSeries
    volume: Volume  # canonical: z to the head, y to the back, x to the left
    turn: Canonical

    def restore(self, mask: Mask) -> Mask:
        """Return *mask* (z, y, x) on the source grid (slices, rows, columns)."""
        return np.ascontiguousarray(self.turn.undo(mask)).astype(np.bool_)


def read_headers(paths: Sequence[Path]) -> SourceSeries:
    """Return the images of a series in slice order, without decoding any pixel.

    Raises InputInvalid, saying what is wrong, where, and what a person can do.
    """
    images = [(dcmread(path, stop_before_pixels=True), path) for path in paths]
    _check_one_series([header for header, _ in images])
    images, left_out = _leave_out_strangers(images)
    ordered, doubled = _in_order(images)
    headers = [header for header, _ in ordered]
    remarks = [f"{left_out} image{'s' * (left_out > 1)} of another kind left out"] if left_out else []
    if doubled:
        remarks.append(f"{doubled} image{'s' * (doubled > 1)} sent twice counted once")
    if any(header.get("LossyImageCompression") == "01" for header in headers):
        remarks.append("the source images were compressed with loss")
    return SourceSeries(
        headers=tuple(headers), paths=tuple(path for _, path in ordered), stack=_stack(headers), remarks=tuple(remarks)
    )


def read_series(paths: Sequence[Path], progress: Callable[[float], None] | None = None) -> LoadedSeries:
    """Return the series as a volume: rescaled values (Hounsfield units for CT) in the models' orientation.

    Raises InputInvalid as `read_headers` does, and where pixel data does not decode.
    """
    source = read_headers(paths)
    voxels = np.empty(source.stack.shape, dtype=np.float32)  # (slice, row, column)
    for number, path in enumerate(source.paths):
        voxels[number] = _rescaled(dcmread(path), number)
        if progress is not None:
            progress((number + 1) / len(source.paths))
    affine = source.stack.affine
    turn = geometry.canonical(affine)
    volume = Volume(
        voxels=np.ascontiguousarray(turn.apply(voxels)).astype(np.float32, copy=False),
        affine=geometry.canonical_affine(affine, source.stack.shape, turn),
        modality=str(source.headers[0].get("Modality", "")),
    )
    return LoadedSeries(source=source, volume=volume, turn=turn)


def _rescaled(dataset: Dataset, number: int) -> NDArray[np.float32]:
    """Return the modality values (rows, columns) of one image: its own slope and intercept, padding as air."""
    try:
        stored = decode_frame(dataset)
    except InputInvalid as why:
        raise InputInvalid(f"image {dataset.get('InstanceNumber') or number + 1}: {why}") from why
    if dataset.get("Modality") == "CT" and int(dataset.BitsStored) <= 8:
        raise InputInvalid("CT images of 8 bits cannot hold Hounsfield units: send the original, uncompressed ones")
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if not np.isfinite(values).all():
        raise InputInvalid("rescaled values are not finite: the rescale slope or intercept is damaged")
    if dataset.get("Modality") == "CT":
        if (padding := _padding(dataset)) is not None:
            values[stored == padding] = _AIR
        np.maximum(values, np.float32(_AIR), out=values)  # nothing is thinner than air; what says so is padding
    return values


def _padding(dataset: Dataset) -> int | None:
    """Return PixelPaddingValue (0028,0120), whose VR in the file may disagree with the sign of the pixels."""
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    bits = int(dataset.BitsAllocated)
    if dataset.get("PixelRepresentation") and value >= 1 << (bits - 1):
        return value - (1 << bits)
    return value


def _check_one_series(headers: Sequence[Dataset]) -> None:
    if len({str(header.get("SeriesInstanceUID")) for header in headers}) > 1:
        raise InputInvalid("the images are of several series")
    if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        raise InputInvalid("multi-frame images are not supported yet; send the classic single-frame series")
    without = sum(not _has_geometry(header) for header in headers)
    if without:
        raise InputInvalid(
            f"{without} of {len(headers)} images do not say where they lie (no image position or orientation): "
            "no volume can be made"
        )


def _has_geometry(header: Dataset) -> bool:
    return (
        len(header.get("ImageOrientationPatient") or ()) == 6
        and len(header.get("ImagePositionPatient") or ()) == 3
        and len(header.get("PixelSpacing") or ()) == 2
    )


def _kind(header: Dataset) -> tuple[Any, ...]:
    """What all slices of one volume share."""
    return (
        tuple(round(float(v), 3) for v in header.ImageOrientationPatient),
        tuple(round(float(v), _POSITION_ROUNDING) for v in header.PixelSpacing),
        int(header.get("Rows") or 0),
        int(header.get("Columns") or 0),
        str(header.get("FrameOfReferenceUID") or ""),
    )


def _leave_out_strangers(images: list[tuple[Dataset, Path]]) -> tuple[list[tuple[Dataset, Path]], int]:
    """Leave out localizers, and a few images unlike an overwhelming majority; refuse a mixture."""
    kept = [one for one in images if "LOCALIZER" not in (one[0].get("ImageType") or ())]
    if not kept:
        raise InputInvalid("there are only localizer images")
    usual, count = Counter(_kind(header) for header, _ in kept).most_common(1)[0]
    if count < _MAJORITY * len(kept):
        raise InputInvalid("the images differ in orientation, size, pixel spacing or frame of reference: not one volume")
    kept = [one for one in kept if _kind(one[0]) == usual]
    if len(kept) < _FEWEST:
        raise InputInvalid(f"{len(kept)} image{'s' * (len(kept) != 1)}: a volume needs at least {_FEWEST} slices")
    return kept, len(images) - len(kept)


def _in_order(images: list[tuple[Dataset, Path]]) -> tuple[list[tuple[Dataset, Path]], int]:
    """Sort along the slice normal; of images that lie in the same plane keep one, if their pixels are the same."""
    orientation = [float(v) for v in images[0][0].ImageOrientationPatient]
    images = sorted(images, key=lambda one: str(one[0].SOPInstanceUID))  # so that a rerun keeps the same one
    positions = np.array([[float(v) for v in header.ImagePositionPatient] for header, _ in images])
    if not np.isfinite(positions).all():
        raise InputInvalid("an image position is not a number")
    try:
        order = geometry.order_along_normal(orientation, positions)
    except GeometryError as why:
        raise InputInvalid(str(why)) from why
    kept: list[int] = []
    for index in order:
        if kept and geometry.same_place(orientation, positions[kept[-1]], positions[index]):
            _check_same_pixels(images[kept[-1]], images[index])
        else:
            kept.append(int(index))
    if len(kept) < _FEWEST:
        raise InputInvalid(f"{len(kept)} different slice positions: a volume needs at least {_FEWEST}")
    return [images[index] for index in kept], len(images) - len(kept)


def _check_same_pixels(first: tuple[Dataset, Path], second: tuple[Dataset, Path]) -> None:
    if _pixel_hash(first[1]) != _pixel_hash(second[1]):
        where = ", ".join(f"{float(v):.1f}" for v in first[0].ImagePositionPatient)
        raise InputInvalid(
            f"several different images lie at the same position ({where}): time points or reconstructions "
            "must come as series of their own"
        )


def _pixel_hash(path: Path) -> bytes:
    return hashlib.sha256(dcmread(path).get("PixelData", b"")).digest()


def _stack(headers: Sequence[Dataset]) -> Stack:
    first = headers[0]
    positions = np.array([[float(v) for v in header.ImagePositionPatient] for header in headers])  # (slices, 3)
    between_rows, between_columns = (float(v) for v in first.PixelSpacing)
    if not (0.01 < between_rows < 50 and 0.01 < between_columns < 50):
        raise InputInvalid(f"a pixel spacing of {between_rows:g} x {between_columns:g} mm is impossible")
    try:
        return geometry.make_stack(
            [float(v) for v in first.ImageOrientationPatient], positions, (between_rows, between_columns),
            int(first.Rows), int(first.Columns),
        )  # fmt: skip
    except GeometryError as why:
        raise InputInvalid(str(why)) from why
