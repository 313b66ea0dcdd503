"""Every case of the test data gives a volume of the stated grid, or the stated refusal."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from numpy.typing import NDArray

from node.dicom.geometry import to_index
from node.dicom.reader import LoadedSeries, read_headers, read_series
from node.errors import InputInvalid

BASE = "ct-chest-elastix-small/dicom"
LUNG1 = "ct-chest-lung1-001"

VOLUMES = {  # folder -> (slices, rows, columns) in the models' orientation, spacing in mm, modality, remark
    "ct-abdomen-totalseg-converted/dicom": ((30, 101, 122), (3.0, 3.0, 3.0), "CT", ""),
    "ct-abdomen-totalseg-dicom/dicom": ((20, 512, 512), (2.0, 0.977, 0.977), "CT", ""),
    BASE: ((64, 78, 57), (5.0, 2.732, 2.732), "CT", ""),
    "ct-chest-ibsi-pat1/dicom": ((60, 201, 204), (3.0, 0.977, 0.977), "CT", ""),
    "ct-chest-lidc-0001-slab/dicom": ((16, 512, 512), (2.5, 0.703, 0.703), "CT", ""),
    f"{LUNG1}/dicom": ((134, 512, 512), (3.0, 0.977, 0.977), "CT", ""),
    "ct-chest-r01-001-every7th/dicom": ((44, 512, 512), (7.0, 0.693, 0.693), "CT", ""),
    "ct-liver-3slice-seg/dicom": ((3, 512, 512), (1.0, 0.811, 0.811), "CT", ""),
    "ct-multiframe-vs-classic-phantom/classic": ((7, 512, 512), (4.0, 0.512, 0.512), "CT", ""),
    "ct-multiframe-vs-classic-phantom/multiframe": ((7, 512, 512), (4.0, 0.512, 0.512), "CT", ""),
    "ct-head-phantom-tilt/dicom": ((28, 557, 512), (2.371, 0.482, 0.482), "CT", "The gantry was tilted by 18.5 deg"),
    "ct-nodule-partsolid-crop/dicom": ((59, 101, 97), (1.25, 0.701, 0.701), "CT", ""),
    "derived-variants/big-endian": ((64, 78, 57), (5.0, 2.732, 2.732), "CT", ""),
    "derived-variants/charset-japanese": ((64, 78, 57), (5.0, 2.732, 2.732), "CT", ""),
    "derived-variants/deflated": ((64, 78, 57), (5.0, 2.732, 2.732), "CT", ""),
    "derived-variants/duplicates-and-shuffled-names": ((64, 78, 57), (5.0, 2.732, 2.732), "CT", "3 images sent twice"),
    "derived-variants/localizer-in-series": ((64, 78, 57), (5.0, 2.732, 2.732), "CT", "1 image of another kind"),
    "derived-variants/per-slice-rescale": ((64, 78, 57), (5.0, 2.732, 2.732), "CT", ""),
    "derived-variants/rows-flipped": ((64, 78, 57), (5.0, 2.732, 2.732), "CT", ""),
    "mr-brain1-tumour/dicom": ((25, 256, 256), (6.5, 0.781, 0.781), "MR", ""),
    "petctmr-sts-002/ct": ((48, 143, 161), (3.27, 0.977, 0.977), "CT", ""),
    "petctmr-sts-002/mr_t1": ((35, 90, 115), (3.27, 0.977, 0.977), "MR", ""),
    "petctmr-sts-002/pet": ((48, 27, 30), (3.27, 5.469, 5.469), "PT", ""),
}

_FRAMES, _NO_IMAGE = "frames do not say where they lie", "it is no image"
_NO_PLACE, _ONE = "does not say where it lies", "only 1 slice: a volume needs at least 3"
REFUSALS = {  # folder, or file -> words of the reason
    "ct-orientations-a046441": "several series",
    "ct-orientations-a046441/axial.dcm": _ONE,
    "ct-orientations-a046441/coronal.dcm": _ONE,
    "ct-orientations-a046441/sagittal.dcm": _ONE,
    "derived-variants/missing-slices": "30.0 mm without a slice between -1337.00 and -1307.00 mm",
    "derived-variants/no-geometry": _NO_PLACE,
    "mr-epi-4d-timeseries/dicom": "60 different images lie in only 15 places",
    **{f"enhanced-mr/emri_small{kind}.dcm": _FRAMES for kind in ("", "_RLE", "_big_endian")},
    **{f"enhanced-mr/emri_small_jpeg_{kind}_lossless.dcm": _FRAMES for kind in ("ls", "2k")},
    "enhanced-mr/philips-fieldmap.dcm": "64 different images lie in only 32 places",
    "other-objects/sr-basic.dcm": _NO_IMAGE,
    "other-objects/sr-tid1500.dcm": _NO_IMAGE,
    "other-objects/ecg-waveform.dcm": _NO_IMAGE,
    "other-objects/rtplan.dcm": _NO_IMAGE,
    "other-objects/rtdose.dcm": "a RT Dose, not an acquired image",
    "other-objects/us-rgb.dcm": "colour image",
    "other-objects/us-palette.dcm": "colour image",
    "other-objects/sc-rgb-rle-2frame.dcm": _FRAMES,
    "other-objects/cr-chest.dcm": _NO_PLACE,
    "other-objects/seg-pet-tumour.dcm": "a Segmentation, not an acquired image",
    **{f"petctmr-sts-002/rtstruct-{kind}.dcm": _NO_IMAGE for kind in ("ct", "mr_t1", "pet")},
    "transfer-syntax-matrix/JPEGProcess1.dcm": "8 bits cannot hold Hounsfield units",
    "transfer-syntax-matrix/JPEGProcess10_12.dcm": "transfer syntax JPEG Full Progression",
    "transfer-syntax-matrix/JPEGProcess6_8.dcm": "transfer syntax JPEG Spectral Selection",
    "charset-names/chrH31.dcm": _NO_PLACE,
}
COVERED_ELSEWHERE = {"malformed", "charset-names", "transfer-syntax-matrix"}  # file by file in the unit tests


def files(data_dir: Path, case: str) -> list[Path]:
    """The instances of a case: one file, or all of a folder."""
    path = data_dir / case
    return [path] if path.is_file() else sorted(path.glob("*.dcm"))


@cache
def load(data_dir: Path, case: str) -> LoadedSeries:
    """Read a small case once."""
    return read_series(files(data_dir, case))


@pytest.mark.parametrize("case", VOLUMES)
def test_a_regular_series_gives_its_volume(data_dir: Path, case: str) -> None:
    """Grid, spacing, modality and remarks are as written down; the other reader finds the same slices."""
    shape, spacing, modality, remark = VOLUMES[case]
    loaded = read_series(files(data_dir, case))
    assert loaded.volume.voxels.shape == shape
    assert loaded.volume.spacing == pytest.approx(spacing, abs=1e-3)
    assert loaded.volume.modality == modality
    assert [text.startswith(remark) for text in loaded.source.remarks] == [True] * bool(remark)
    again = read_headers(files(data_dir, case))
    assert [h.SOPInstanceUID for h in again.headers] == [h.SOPInstanceUID for h in loaded.source.headers]


@pytest.mark.parametrize("case", REFUSALS)
def test_everything_else_is_refused_with_its_reason(data_dir: Path, case: str) -> None:
    """By both readers, in the same words."""
    words = []
    for read in (read_headers, read_series):
        with pytest.raises(InputInvalid) as refusal:
            read(files(data_dir, case))
        words.append(str(refusal.value))
    assert REFUSALS[case] in words[0]
    assert words[0] == words[1]


def test_no_case_is_forgotten(data_dir: Path) -> None:
    """A case that is added to the test data needs its line here."""
    known = {case.split("/")[0] for case in (*VOLUMES, *REFUSALS)} | COVERED_ELSEWHERE
    assert {path.name for path in data_dir.iterdir() if (path / "README.md").is_file()} == known


@pytest.mark.parametrize("path", ["malformed"])
def test_malformed_files_are_refused_and_nothing_else(data_dir: Path, path: str) -> None:
    """None of the damaged files is a volume, and none breaks the reader."""
    for file in files(data_dir, path):
        with pytest.raises(InputInvalid):
            read_series([file])


@pytest.mark.parametrize("case", [case for case in VOLUMES if case.startswith("derived-variants/")])
def test_a_variant_of_a_series_is_the_same_body(data_dir: Path, case: str) -> None:
    """Encoding, order, doubles, scouts, rescale and storage direction change neither a value nor its place."""
    base, variant = load(data_dir, BASE).volume, load(data_dir, case).volume
    np.testing.assert_allclose(variant.affine, base.affine, atol=1e-3)
    np.testing.assert_allclose(variant.voxels, base.voxels, atol=1.0)  # a slope of 2 keeps every second number


def nrrd_grid(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Values (i, j, k) and affine to (L, P, S)."""
    values, header = nrrd.read(str(path))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.array(header["space directions"]).T, header["space origin"]
    return values, affine


def nifti_grid(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Values (i, j, k) and affine to (L, P, S); NIfTI's own axes are R, A, S."""
    image = nibabel.Nifti1Image.from_filename(path)
    return np.asarray(image.dataobj), np.diag([-1.0, -1, 1, 1]) @ image.affine


@pytest.mark.parametrize(
    ("case", "reference"),
    [("mr-brain1-tumour", "image.nrrd"), ("ct-abdomen-totalseg-converted", "image.nii.gz")],
)
def test_values_lie_where_another_format_says(data_dir: Path, case: str, reference: str) -> None:
    """The volume that the series was made of is an independent witness of every axis."""
    path = data_dir / case / reference
    values, affine = nrrd_grid(path) if path.suffix == ".nrrd" else nifti_grid(path)
    volume = load(data_dir, f"{case}/dicom").volume
    picks = np.random.default_rng(7).integers(0, values.shape, size=(200, 3))
    for pick in picks:
        index = to_index(volume.affine, (affine @ np.array([*pick, 1.0]))[:3])
        nearest = tuple(round(i) for i in index)
        np.testing.assert_allclose(index, nearest, atol=1e-2)
        assert volume.voxels[nearest] == max(values[tuple(pick)], -1024 if volume.modality == "CT" else -np.inf)


def test_human_lung_contours_lie_on_lung(data_dir: Path) -> None:
    """The left lung is on the left, filled with air, and comes back to the source images it was drawn on."""
    loaded = load(data_dir, f"{LUNG1}/dicom")
    labels, affine = nrrd_grid(data_dir / LUNG1 / "label-lungs.nrrd")
    facts = json.loads((data_dir / LUNG1 / "reference.json").read_text())["labels"]["lung left"]
    left = np.ascontiguousarray((labels == 1).T)  # (z, y, x): this grid is axial in the common direction
    np.testing.assert_allclose(loaded.volume.affine[:3, :3], affine[:3, 2::-1], atol=1e-4)
    assert float(np.count_nonzero(left)) * loaded.volume.voxel_ml == pytest.approx(facts["volume_ml"], rel=1e-3)
    centroid = loaded.volume.to_patient(tuple(np.argwhere(left).mean(axis=0)))
    assert centroid == pytest.approx(facts["centroid_lps_mm"], abs=0.1)
    assert -900 < float(np.median(loaded.volume.voxels[left])) < -700
    restored = loaded.restore(left)
    middle = int(np.argmax(restored.any(axis=(1, 2))))
    height = float(loaded.source.headers[middle].ImagePositionPatient[2])
    assert height == pytest.approx(loaded.volume.to_patient((np.argwhere(left)[0][0], 0, 0))[2], abs=1e-3)
