"""A series of images, or of frames, to a volume: what cannot be right is refused with a reason rather than guessed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID

from models.contract import Mask, Volume
from node.dicom import geometry
from node.dicom.frames import frame_headers, frames_with_pixels, is_multiframe
from node.dicom.geometry import Canonical, GeometryError, Stack, Straightening
from node.dicom.header import read_instance
from node.dicom.pixels import check_decodable, decode_frame
from node.errors import InputInvalid, UnreadableInstance

_FEWEST = 3  # slices that make a volume
_MAJORITY = 0.9  # share of a series that must agree before the rest is left out
_AIR = -1024.0  # HU, what CT padding is read as
_SPACINGS = (0.01, 50.0)  # mm, least and greatest distance between pixels
_PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")  # equal in all images of one volume


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SourceSeries:
    """The images that make the volume, in the order of the slices on the source grid."""

    headers: tuple[Dataset, ...]  # one per slice, without pixel data
    paths: tuple[Path, ...]  # one per slice
    stack: Stack
    remarks: tuple[str, ...]  # what was left out, for people
    frames: tuple[int, ...] = ()  # of multi-frame images: which frame (from 1) each slice is; else empty


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedSeries:
    """A series with its pixels decoded, turned for the models."""

    source: SourceSeries
    volume: Volume  # canonical: z to the head, y to the back, x to the left
    turn: Canonical
    values: NDArray[np.float32]  # (slices, rows, columns): of the source images themselves
    straightening: Straightening | None = None  # where the source is no regular stack

    def restore(self, mask: Mask) -> Mask:
        """Return *mask* (z, y, x) on the source grid (slices, rows, columns)."""
        return np.ascontiguousarray(self.restored(mask)).astype(np.bool_)

    def restored(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return any *array* (z, y, x) on the source grid, by nearest neighbours where the source is irregular."""
        turned = self.turn.undo(array)
        return turned if self.straightening is None else self.straightening.restore(turned)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Image:
    """One image's header with the values that place it, read once."""

    path: Path
    header: Dataset = field(repr=False)
    orientation: tuple[float, ...]
    position: tuple[float, ...]
    spacing: tuple[float, ...]
    frame: int = 0  # of a multi-frame image, from 1; 0: the file holds this image alone

    @property
    def name(self) -> str:
        """How a person finds it in the PACS."""
        return _name(self.header)

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.header.get("Rows") or 0), int(self.header.get("Columns") or 0)

    @property
    def is_localizer(self) -> bool:
        """Whether ImageType (0008,0008) calls it one."""
        return "LOCALIZER" in str(self.header.get("ImageType") or "").upper()

    @property
    def kind(self) -> tuple[object, ...]:
        """What images of one stack share, the last digits aside."""
        return self.size, *(round(cosine, 2) for cosine in self.orientation)

    def is_like(self, other: _Image) -> bool:
        """Whether both have the same size and orientation."""
        return self.size == other.size and geometry.same_orientation(self.orientation, other.orientation)


def read_headers(paths: Sequence[Path]) -> SourceSeries:
    """Return the images of a series in slice order, without decoding any pixel.

    Raises InputInvalid, saying what is wrong, where, and what a person can do.
    """
    images = [image for path in paths for image in _images(path)]
    _check_one_series(images)
    kept = _leave_out_strangers(images)
    remarks = _left_out(len(images) - len(kept))
    _check_one_volume(kept)
    ordered = _without_doubles(_in_order(kept))
    if len(ordered) < len(kept):
        remarks.append(_counted(len(kept) - len(ordered), "image") + " sent twice counted once")
    if any(image.header.get("LossyImageCompression") == "01" for image in ordered):
        remarks.append("the source images were compressed with loss")
    stack = _stack(ordered)
    return SourceSeries(
        headers=tuple(image.header for image in ordered), paths=tuple(image.path for image in ordered), stack=stack,
        remarks=(*remarks, *stack.irregularities), frames=_frames(ordered),
    )  # fmt: skip


def read_series(paths: Sequence[Path], progress: Callable[[float], None] | None = None) -> LoadedSeries:
    """Return the series as a volume: rescaled values (Hounsfield units for CT) in the models' orientation.

    CT padding and all below it is read as air, -1024 HU. A tilted or uneven stack is straightened for the models.
    Raises InputInvalid as `read_headers` does, and where pixel data does not decode.
    """
    source = read_headers(paths)
    values = np.empty(source.stack.shape, dtype=np.float32)  # (slice, row, column)
    for number, image in enumerate(_with_pixels(source)):
        values[number] = _rescaled(image)
        if progress is not None:
            progress((number + 1) / len(source.paths))
    modality = str(source.headers[0].get("Modality") or "")
    straightening = None if source.stack.is_regular else geometry.straighten(source.stack)
    grid, affine = values, source.stack.affine
    if straightening is not None:
        outside = _AIR if modality == "CT" else float(values.min())
        grid, affine = straightening.apply(values, outside), straightening.affine
    turn = geometry.canonical(affine)
    volume = Volume(
        voxels=np.ascontiguousarray(turn.apply(grid)).astype(np.float32, copy=False),
        affine=geometry.canonical_affine(affine, (grid.shape[0], grid.shape[1], grid.shape[2]), turn),
        modality=modality,
    )
    if straightening is None:  # the same numbers, turned: not kept twice
        values = turn.undo(volume.voxels).astype(np.float32, copy=False)
    return LoadedSeries(source=source, volume=volume, turn=turn, values=values, straightening=straightening)


def _with_pixels(source: SourceSeries) -> Iterator[Dataset]:
    """Yield each slice's image with its pixels; a multi-frame file is read once for its frames in a row."""
    if not source.frames:
        for path in source.paths:
            yield _read(path, pixels=True)
        return
    for path, group in groupby(zip(source.paths, source.frames, strict=True), key=lambda pair: pair[0]):
        yield from frames_with_pixels(_read(path, pixels=True), [frame for _, frame in group])


def _frames(images: Sequence[_Image]) -> tuple[int, ...]:
    """Which frame each slice is; nothing where no file holds several."""
    if any(image.frame for image in images):
        return tuple(max(1, image.frame) for image in images)
    return ()


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _left_out(number: int) -> list[str]:
    words = "of another kind (localizer, or other size or orientation) left out"
    return [f"{_counted(number, 'image')} {words}"] if number else []


def _name(header: Dataset) -> str:
    return f"image {header.get('InstanceNumber') or header.get('SOPInstanceUID') or '(without a number)'}"


def _images(path: Path) -> list[_Image]:
    """The image of a file, or its frames."""
    header = _read(path, pixels=False)
    try:
        if not is_multiframe(header):
            return [_image(path, header)]
        headers = frame_headers(header)
    except InputInvalid as why:
        raise InputInvalid(f"{_name(header)}: {why}") from why
    return [_image(path, one, frame) for frame, one in enumerate(headers, start=1)]


def _image(path: Path, header: Dataset, frame: int = 0) -> _Image:
    return _Image(
        path=path, header=header, frame=frame, orientation=_numbers(header, "ImageOrientationPatient", 6),
        position=_numbers(header, "ImagePositionPatient", 3), spacing=_numbers(header, "PixelSpacing", 2),
    )  # fmt: skip


def _read(path: Path, *, pixels: bool) -> Dataset:
    try:
        return read_instance(path, pixels=pixels)
    except UnreadableInstance as why:
        raise InputInvalid(str(why)) from why


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """Return *count* finite numbers, or none where the header has not that."""
    try:
        values = tuple(float(value) for value in header.get(keyword) or ())
    except (TypeError, ValueError):
        return ()
    return values if len(values) == count and np.isfinite(values).all() else ()


def _check_one_series(images: Sequence[_Image]) -> None:
    if not images:
        raise InputInvalid("there are no images")
    if len({str(image.header.get("SeriesInstanceUID")) for image in images}) > 1:
        raise InputInvalid("the images are of several series: choose one")


def _leave_out_strangers(images: Sequence[_Image]) -> list[_Image]:
    """Leave out localizers, and a few images unlike an overwhelming majority; refuse a mixture."""
    kept = [image for image in images if not image.is_localizer]
    if not kept:
        raise InputInvalid("there are only localizer images")
    usual = Counter(image.kind for image in kept).most_common(1)[0][0]
    model = next(image for image in kept if image.kind == usual)
    for image in kept:
        if image.size == model.size:
            _check_image(image)
    alike = [image for image in kept if image.is_like(model)]
    if len(alike) < _MAJORITY * len(kept):
        raise InputInvalid(
            f"the images differ in orientation or size (only {len(alike)} of {len(kept)} are alike): not one volume; "
            "have each stack sent as a series of its own"
        )
    return alike


def _check_image(image: _Image) -> None:
    """Refuse what can be no slice of a volume."""
    if image.size == (0, 0):
        kind = UID(str(image.header.get("SOPClassUID") or "")).name
        raise InputInvalid(f"{image.name} has no rows and columns: it is no image ({kind or 'unknown SOP class'})")
    try:
        check_decodable(image.header)
    except InputInvalid as why:
        raise InputInvalid(f"{image.name}: {why}") from why
    if not image.orientation or not image.position or not image.spacing:
        raise InputInvalid(
            f"{image.name} does not say where it lies in the patient (position, orientation or pixel spacing is "
            "missing): no volume can be made; have the original images sent"
        )
    if not all(_SPACINGS[0] < value < _SPACINGS[1] for value in image.spacing):
        raise InputInvalid(f"{image.name}: a pixel spacing of {image.spacing} mm is impossible")
    if image.header.get("Modality") == "CT" and int(image.header.BitsStored) <= 8:
        raise InputInvalid(
            f"{image.name}: a CT image of 8 bits cannot hold Hounsfield units: have the original images sent"
        )


def _check_one_volume(images: Sequence[_Image]) -> None:
    """Refuse images that cannot be slices of one volume, though all have one size and orientation."""
    if len({str(image.header.get("FrameOfReferenceUID") or "") for image in images}) > 1:
        raise InputInvalid("the images are of several frames of reference: their positions cannot be compared")
    if len({tuple(str(image.header.get(word) or "") for word in _PATIENT) for image in images}) > 1:
        raise InputInvalid("the images name different patients; whose they are must be settled at their source")
    if len({str(image.header.get("Modality") or "") for image in images}) > 1:
        raise InputInvalid("the images are of several modalities")
    for image in images:
        if not np.allclose(image.spacing, images[0].spacing, rtol=1e-3, atol=0):
            raise InputInvalid(f"the images differ in pixel spacing: {images[0].spacing} and {image.spacing} mm")


def _in_order(images: Sequence[_Image]) -> list[_Image]:
    """Sort along the slice normal; equals by SOP Instance UID, so that a rerun keeps the same one."""
    by_uid = sorted(images, key=lambda image: str(image.header.get("SOPInstanceUID")))
    positions = np.array([image.position for image in by_uid])  # (images, 3)
    try:
        order = geometry.order_along_normal(images[0].orientation, positions)
    except GeometryError as why:
        raise InputInvalid(str(why)) from why
    return [by_uid[index] for index in order]


def _without_doubles(images: Sequence[_Image]) -> list[_Image]:
    """Of images that lie upon each other keep one, if all that is in them is the same."""
    kept: list[_Image] = []
    for image in images:
        if kept and _in_one_plane(kept[-1], image):
            _check_same(kept[-1], image, images)
        else:
            kept.append(image)
    if len(kept) < _FEWEST:
        raise InputInvalid(f"only {_counted(len(kept), 'slice')}: a volume needs at least {_FEWEST}")
    return kept


def _in_one_plane(first: _Image, second: _Image) -> bool:
    return geometry.same_plane(first.orientation, np.array(first.position), np.array(second.position))


def _check_same(first: _Image, second: _Image, images: Sequence[_Image]) -> None:
    same = geometry.same_place(np.array(first.position), np.array(second.position))
    if same and not (first.frame or second.frame) and _content(first.path) == _content(second.path):
        return
    planes = 1 + sum(not _in_one_plane(a, b) for a, b in pairwise(images))
    where = ", ".join(f"{value:.1f}" for value in first.position)
    raise InputInvalid(
        f"{len(images)} different images lie in only {planes} places, the first at ({where}) mm: "
        "have time points, phases and reconstructions sent as series of their own"
    )


def _content(path: Path) -> tuple[object, ...]:
    """What makes the values of an image; the stored pixel data is compared as bytes, without decoding."""
    dataset = _read(path, pixels=True)
    named = ("RescaleSlope", "RescaleIntercept", "PixelRepresentation", "BitsStored", "PixelPaddingValue")
    pixels = hashlib.sha256(dataset.get("PixelData") or b"").digest()
    return pixels, *(str(dataset.get(name)) for name in named)


def _stack(images: Sequence[_Image]) -> Stack:
    first = images[0]
    rows, columns = first.size
    try:
        return geometry.make_stack(
            first.orientation, np.array([image.position for image in images]), (first.spacing[0], first.spacing[1]),
            rows, columns,
        )  # fmt: skip
    except GeometryError as why:
        raise InputInvalid(str(why)) from why


def _rescaled(dataset: Dataset) -> NDArray[np.float32]:
    """Return the modality values (rows, columns) of one image by its own slope and intercept (PS3.3 C.11.1)."""
    try:
        stored = decode_frame(dataset)
    except InputInvalid as why:
        raise InputInvalid(f"{_name(dataset)}: {why}") from why
    slope, intercept = _number(dataset, "RescaleSlope", 1.0), _number(dataset, "RescaleIntercept", 0.0)
    if slope == 0 or not np.isfinite((slope, intercept)).all():
        scale = f"a rescale slope of {slope:g} and intercept of {intercept:g}"
        raise InputInvalid(f"{_name(dataset)}: {scale} are impossible")
    values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if dataset.get("Modality") == "CT":
        values[_is_padding(stored, dataset)] = _AIR
        np.maximum(values, np.float32(_AIR), out=values)  # nothing is thinner than air: it is undeclared padding
    return values


def _number(dataset: Dataset, keyword: str, absent: float) -> float:
    value = dataset.get(keyword)
    try:
        return absent if value is None else float(value)
    except (TypeError, ValueError):
        return float("nan")


def _is_padding(stored: NDArray[np.integer[Any]], dataset: Dataset) -> NDArray[np.bool_]:
    """Return where *stored* is padding: PixelPaddingValue, up to its range limit (PS3.3 C.7.5.1.1.2)."""
    value = _padding(dataset, "PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = _padding(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    return (stored >= low) & (stored <= high)


def _padding(dataset: Dataset, keyword: str) -> int | None:
    """Return a value whose VR in the file may disagree with the sign of the pixels."""
    value = dataset.get(keyword)
    if not isinstance(value, int):
        return None
    bits = int(dataset.BitsAllocated)
    if dataset.get("PixelRepresentation") and value >= 1 << (bits - 1):
        return value - (1 << bits)
    return value
