"""A series written anew with its rows, columns or slices stored the other way round: the same patient, other files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from node.dicom.reader import LoadedSeries

_STORED_OTHERWISE = ("PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue", "LargestImagePixelValue")


def rows_flipped(series: LoadedSeries, folder: Path) -> list[Path]:
    """Write *series* with its rows stored bottom up; return the files."""
    return _written(series, folder, axis=0)


def columns_flipped(series: LoadedSeries, folder: Path) -> list[Path]:
    """Write *series* with its columns stored right to left; return the files."""
    return _written(series, folder, axis=1)


def slices_flipped(series: LoadedSeries, folder: Path) -> list[Path]:
    """Write *series* with its images named and numbered from the other end; return the files."""
    return _written(series, folder, axis=None)


ORDERS: Mapping[str, Callable[[LoadedSeries, Path], list[Path]]] = {
    "rows-flipped": rows_flipped,
    "columns-flipped": columns_flipped,
    "slices-flipped": slices_flipped,
}


def _written(series: LoadedSeries, folder: Path, *, axis: int | None) -> list[Path]:
    """Write each slice as Explicit VR Little Endian with whole modality values; *axis* is the one of pixels to turn."""
    paths = []
    count = len(series.source.headers)
    turn = _in_place if axis is None else partial(_turned, axis=axis)
    for number, (header, values) in enumerate(zip(series.source.headers, series.values, strict=True)):
        image, pixels = turn(header, values)
        place = number if axis is not None else count - 1 - number
        image.InstanceNumber = place + 1
        paths.append(folder / f"{place:04d}.dcm")
        _save(image, pixels, paths[-1])
    return sorted(paths)


def _in_place(header: Dataset, values: NDArray[np.float32]) -> tuple[Dataset, NDArray[np.float32]]:
    return deepcopy(header), values


def _turned(
    header: Dataset, values: NDArray[np.float32], *, axis: int
) -> tuple[Dataset, NDArray[np.float32]]:
    """Return header and pixels with rows (0) or columns (1) stored from the other end (PS3.3 C.7.6.2.1.1)."""
    image = deepcopy(header)
    cosines = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
    along = 1 - axis  # the first cosines run along a row, from column to column
    step = float(header.PixelSpacing[axis])
    corner = np.array(header.ImagePositionPatient, dtype=float) + cosines[along] * step * (values.shape[axis] - 1)
    cosines[along] *= -1
    image.ImagePositionPatient = [f"{one:.10g}" for one in corner]
    image.ImageOrientationPatient = [f"{one:.10g}" for one in cosines.ravel()]
    return image, np.flip(values, axis)


def _save(image: Dataset, values: NDArray[np.float32], path: Path) -> None:
    for keyword in _STORED_OTHERWISE:
        if keyword in image:
            delattr(image, keyword)
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.RescaleSlope, image.RescaleIntercept = 1, 0
    image.add_new("PixelData", "OW", np.rint(values).astype("<i2").tobytes())
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    image.file_meta = meta
    image.save_as(path, enforce_file_format=True)
