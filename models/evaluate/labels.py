"""Reference labels in NRRD and NIfTI files, brought onto a volume's grid through patient space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import Volume

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LPS = "left-posterior-superior"


def read_label(file: Path, volume: Volume) -> NDArray[np.int32]:
    """Return the label values (z, y, x) at the voxel centres of *volume*; 0 outside the label's own grid.

    The nearest label voxel counts, so flipped, shifted and swapped grids are compared at the same places.
    Reading takes pynrrd and nibabel, which come with the `dev` extra.
    """
    values, affine = _read_nifti(file) if file.name.endswith((".nii", ".nii.gz")) else _read_nrrd(file)
    to_label = np.linalg.inv(affine) @ volume.affine  # volume index (z, y, x, 1) -> label index
    shape = volume.voxels.shape
    rows, columns = np.ogrid[: shape[1], : shape[2]]
    result = np.zeros(shape, dtype=np.int32)
    for z in range(shape[0]):  # slice by slice: the indices of a whole volume would take many times its memory
        place = [
            np.rint(to_label[axis, 0] * z + to_label[axis, 1] * rows + to_label[axis, 2] * columns + to_label[axis, 3])
            for axis in range(3)
        ]
        seen = np.logical_and.reduce([(p >= 0) & (p < n) for p, n in zip(place, values.shape, strict=True)])
        result[z][seen] = values[tuple(p[seen].astype(np.intp) for p in place)]
    return result


def _read_nrrd(file: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the values and the affine from their index to (L, P, S) in mm."""
    import nrrd  # a development dependency: the rest of this package does without

    values, header = nrrd.read(str(file))
    if header.get("space") != _LPS:
        raise ValueError(f"{file}: space is {header.get('space')!r}, not {_LPS!r}")
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(header["space directions"], dtype=np.float64).T  # one row per axis in the file
    affine[:3, 3] = header["space origin"]
    return values, affine


def _read_nifti(file: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the values and the affine from their index to (L, P, S) in mm; NIfTI itself counts in (R, A, S)."""
    import nibabel  # a development dependency, as above

    image: Any = nibabel.load(file)
    return np.asarray(image.dataobj), _RAS_TO_LPS @ np.asarray(image.affine, dtype=np.float64)
