"""A series to a volume: what is regular is placed exactly, what is not is refused with a reason."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from node.dicom.geometry import slice_normal, to_index
from node.dicom.reader import LoadedSeries, read_headers, read_series
from node.errors import InputInvalid

SLICES, ROWS, COLUMNS = 4, 5, 6
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Change = Callable[[list[Dataset]], object]


def stored_values() -> NDArray[np.int16]:
    """A different value in every voxel (slice, row, column)."""
    return np.arange(SLICES * ROWS * COLUMNS, dtype=np.int16).reshape(SLICES, ROWS, COLUMNS)


def one_image(number: int, pixels: NDArray[Any]) -> Dataset:
    """One axial CT image, unsorted facts left to the caller."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"1.2.3.4.{number + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", "1.2.3.1", "1.2.3.9"
    ds.ImageType, ds.Modality, ds.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", number + 1
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.RescaleSlope, ds.RescaleIntercept = 16, 16, 15, 1, 0
    ds.PixelSpacing, ds.PixelData = [0.7, 0.9], pixels.astype("<i2").tobytes()
    return ds


def series(cosines: tuple[float, ...] = AXIAL, step: float = 2.5) -> list[Dataset]:
    """A whole series; a negative *step* sends it from its last slice to its first."""
    images = [one_image(number, pixels) for number, pixels in enumerate(stored_values())]
    for number, ds in enumerate(images):
        position = np.array([10.0, -20.0, 30.0]) + number * step * slice_normal(cosines)
        ds.ImageOrientationPatient = [f"{value:.9f}" for value in cosines]
        ds.ImagePositionPatient = [f"{value:.9f}" for value in position]
    return images


def written(folder: Path, images: list[Dataset]) -> list[Path]:
    """The files of a series, under names that say nothing of their order."""
    paths = [folder / f"{(number * 7919) % 101:03d}-{number}.dcm" for number in range(len(images))]
    for path, ds in zip(paths, images, strict=True):
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        dcmwrite(path, ds, enforce_file_format=True)
    return sorted(paths)


def place_in_patient(ds: Dataset, row: int, column: int) -> NDArray[np.float64]:
    """PS3.3 equation C.7.6.2.1-1, written out once more."""
    cosines = np.array([float(v) for v in ds.ImageOrientationPatient])
    down, across = (float(v) for v in ds.PixelSpacing)
    corner = np.array([float(v) for v in ds.ImagePositionPatient])
    place: NDArray[np.float64] = corner + cosines[:3] * across * column + cosines[3:] * down * row
    return place


def check_every_voxel(images: list[Dataset], loaded: LoadedSeries) -> None:
    """Each stored value is found where its image says, in the volume and back on the source grid."""
    for number, pixels in enumerate(stored_values()):
        for row, column in ((0, 0), (1, 4), (4, 2)):
            index = to_index(loaded.volume.affine, place_in_patient(images[number], row, column))
            nearest = tuple(round(i) for i in index)
            np.testing.assert_allclose(index, nearest, atol=1e-4)
            assert loaded.volume.voxels[nearest] == pixels[row, column]
            mask = np.zeros(loaded.volume.voxels.shape, dtype=bool)
            mask[nearest] = True
            ((slice_, row_back, column_back),) = np.argwhere(loaded.restore(mask))
            assert loaded.source.headers[slice_].SOPInstanceUID == images[number].SOPInstanceUID
            assert (row_back, column_back) == (row, column)


@pytest.mark.parametrize(
    "cosines",
    [
        AXIAL, (-1, 0, 0, 0, -1, 0), (1, 0, 0, 0, -1, 0), (-1, 0, 0, 0, 1, 0), (0, 1, 0, 1, 0, 0),  # axial in five ways
        (1, 0, 0, 0, 0, -1), (1, 0, 0, 0, 0, 1), (0, 1, 0, 0, 0, -1), (0, 0, -1, 0, 1, 0),  # coronal, sagittal
        (0.96, 0, 0.28, 0, 1, 0), (0.8, 0.6, 0, -0.48, 0.64, 0.6),  # oblique, double oblique
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [2.5, -2.5])
def test_every_value_lies_where_its_image_says(tmp_path: Path, cosines: tuple[float, ...], step: float) -> None:
    """Whatever the orientation and the order in which slices were numbered."""
    images = series(cosines, step)
    check_every_voxel(images, read_series(written(tmp_path, images)))


@given(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: float(np.linalg.norm(q)) > 0.1))
@settings(max_examples=25, deadline=None)
def test_every_value_lies_where_its_image_says_however_turned(quaternion: tuple[float, ...]) -> None:
    """The same for random rotations."""
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    row = (1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w))
    column = (2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w))
    images = series((*row, *column))
    with tempfile.TemporaryDirectory() as name:
        check_every_voxel(images, read_series(written(Path(name), images)))


def test_axes_of_the_volume_run_to_head_back_and_left(tmp_path: Path) -> None:
    """A coronal series sent feet first comes out like an axial one."""
    volume = read_series(written(tmp_path, series((1, 0, 0, 0, 0, -1)))).volume
    assert volume.spacing == pytest.approx((0.7, 2.5, 0.9))
    assert np.all(np.diag(volume.affine[:3, :3][::-1]) > 0)
    assert volume.modality == "CT"


def test_headers_are_in_slice_order_and_hold_no_pixels(tmp_path: Path) -> None:
    """The encoder's process sorts as the child does, and needs no pixel."""
    paths = written(tmp_path, series(step=-2.5))
    headers = read_headers(paths).headers
    assert [int(h.InstanceNumber) for h in headers] == [4, 3, 2, 1]
    assert not any("PixelData" in h for h in headers)
    assert [h.SOPInstanceUID for h in read_series(paths).source.headers] == [h.SOPInstanceUID for h in headers]


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path: Path) -> None:
    """PET and some CT change it from slice to slice."""
    images = series()
    for number, ds in enumerate(images):
        ds.RescaleSlope, ds.RescaleIntercept = 0.5 + number, 10 * number
    voxels = read_series(written(tmp_path, images)).volume.voxels
    for number, pixels in enumerate(stored_values()):
        np.testing.assert_array_equal(voxels[number], pixels * (0.5 + number) + 10 * number)


@pytest.mark.parametrize(
    ("padding", "limit"), [(-2000, None), (63536, None), (-2000, -1990)], ids=["SS", "written as US", "range"]
)
def test_padding_is_air(tmp_path: Path, padding: int, limit: int | None) -> None:
    """What lies outside the scanner's circle is no tissue, though its number may look so."""
    images = series()
    for ds in images:
        pixels = np.frombuffer(ds.PixelData, "<i2").copy()
        pixels[0], pixels[1] = -2000, -1995
        ds.PixelData, ds.RescaleIntercept = pixels.tobytes(), 2000
        ds.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
        if limit is not None:
            ds.add_new("PixelPaddingRangeLimit", "SS", limit)
    row = read_series(written(tmp_path, images)).volume.voxels[0, 0]
    assert row[:3].tolist() == [-1024, -1024 if limit else 5, 2002]


def test_values_of_other_modalities_are_not_touched(tmp_path: Path) -> None:
    """Only CT knows air."""
    images = series()
    for ds in images:
        ds.Modality, ds.RescaleIntercept = "MR", -5000
    volume = read_series(written(tmp_path, images)).volume
    assert (volume.modality, float(volume.voxels.min())) == ("MR", -5000)


def test_a_series_without_what_type_2_allows_to_be_empty_is_read(tmp_path: Path) -> None:
    """The encoder fills what is missing."""
    images = series()
    for ds in images:
        del ds.ImageType, ds.RescaleSlope, ds.RescaleIntercept
        ds.InstanceNumber, ds.PatientName = None, ""
    assert read_series(written(tmp_path, images)).volume.voxels.shape == (SLICES, ROWS, COLUMNS)


def test_progress_goes_from_slice_to_slice(tmp_path: Path) -> None:
    """It ends at one."""
    seen: list[float] = []
    read_series(written(tmp_path, series()), progress=seen.append)
    assert seen == [0.25, 0.5, 0.75, 1.0]


def test_an_image_sent_twice_counts_once(tmp_path: Path) -> None:
    """The same pixels at the same place under a new UID: the volume is the same, and the report says it."""
    images = series()
    again = one_image(9, stored_values()[2])
    again.ImagePositionPatient, again.ImageOrientationPatient = images[2].ImagePositionPatient, list(AXIAL)
    loaded = read_series(written(tmp_path, [*images, again]))
    np.testing.assert_array_equal(loaded.volume.voxels, stored_values())
    assert loaded.source.remarks == ("1 image sent twice counted once",)


def many(images: list[Dataset], stranger: Callable[[Dataset], object]) -> list[Dataset]:
    """Twelve slices, then one that *stranger* has changed."""
    template = images[0]
    made = [one_image(number, stored_values()[number % SLICES]) for number in range(13)]
    for number, ds in enumerate(made):
        ds.ImageOrientationPatient = template.ImageOrientationPatient
        ds.ImagePositionPatient = [10, -20, 30 + 2.5 * number]
    stranger(made[-1])
    return made


def coronal(ds: Dataset) -> None:
    """Turn one image away from its series."""
    ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def small_colour(ds: Dataset) -> None:
    """A dose sheet: another size, in colour, without geometry."""
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 2, 2, 3, "RGB"
    ds.PlanarConfiguration, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelData = 0, 8, 8, 7, bytes(12)
    del ds.ImageOrientationPatient, ds.ImagePositionPatient


def localizer(ds: Dataset) -> None:
    """A scout that lies among the slices."""
    ds.ImageType, ds.ImagePositionPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [10, -20, 31]


@pytest.mark.parametrize("stranger", [coronal, small_colour, localizer])
def test_a_single_stranger_is_left_out_and_said(tmp_path: Path, stranger: Callable[[Dataset], object]) -> None:
    """Localizers and dose sheets are met inside the series of the slices."""
    loaded = read_series(written(tmp_path, many(series(), stranger)))
    assert loaded.volume.voxels.shape == (12, ROWS, COLUMNS)
    assert loaded.source.remarks == ("1 image of another kind (localizer, or other size or orientation) left out",)


def set_one_image(ds: Dataset, changes: dict[str, Any]) -> None:
    """Change attributes of one image."""
    for name, value in changes.items():
        setattr(ds, name, value)


def set_all(**changes: Any) -> Change:
    """Change the same attributes of all images."""
    def change(images: list[Dataset]) -> None:
        for ds in images:
            set_one_image(ds, changes)

    return change


def set_one(**changes: Any) -> Change:
    """Change the attributes of the second image."""
    return lambda images: set_one_image(images[1], changes)


def move(number: int, *position: float) -> Change:
    """Put one image elsewhere."""
    return lambda images: setattr(images[number], "ImagePositionPatient", list(position))


REFUSALS: dict[str, tuple[Change, str]] = {
    "several series": (set_one(SeriesInstanceUID="1.2.9"), "several series"),
    "several frames of reference": (set_one(FrameOfReferenceUID="1.9"), "several frames of reference"),
    "several pixel spacings": (set_one(PixelSpacing=[0.8, 0.9]), "differ in pixel spacing"),
    "several patients": (set_one(PatientID="SOMEBODY-ELSE"), "different patients"),
    "several names of a patient": (set_one(PatientName="Else^Somebody"), "different patients"),
    "several modalities": (set_one(Modality="MR"), "several modalities"),
    "a quarter turned": (set_one(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "only 3 of 4 are alike"),
    "no position": (set_one(ImagePositionPatient=None), "image 2 does not say where it lies"),
    "no orientation": (set_all(ImageOrientationPatient=None), "image 1 does not say where it lies"),
    "impossible spacing": (set_all(PixelSpacing=[0, 0.9]), "is impossible"),
    "no directions": (set_all(ImageOrientationPatient=[0] * 6), "perpendicular"),
    "two slices": (lambda images: images.__delitem__(slice(2, 4)), "only 2 slices: a volume needs at least 3"),
    "only localizers": (set_all(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "only localizer images"),
    "five slices missing": (lambda images: many_without(images, 3, 5), r"15\.0 mm without a slice"),
    "other pixels at one place": (move(3, 10, -20, 35), "4 different images lie in only 3 places"),
    "the same plane, another field of view": (move(3, 15, -20, 35), "4 different images lie in only 3 places"),
    "multi-frame": (set_all(NumberOfFrames=3), "frames do not say where they lie"),
    "too few descriptions": (
        set_all(NumberOfFrames=3, PerFrameFunctionalGroupsSequence=[Dataset()]), "has 3 frames, but describes 1"
    ),
    "colour": (set_all(PhotometricInterpretation="PALETTE COLOR"), "colour image"),
    "no image": (set_all(Rows=None, Columns=None), r"it is no image \(CT Image Storage\)"),
    "8 bits": (set_all(BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=bytes(30)), "cannot hold Hounsfield units"),
}  # fmt: skip


def many_without(images: list[Dataset], number: int, count: int) -> None:
    """Make it some slices with one gap."""
    images[:] = many(images, id)
    del images[number : number + count]


@pytest.mark.parametrize("case", REFUSALS)
def test_what_makes_no_volume_is_refused_with_its_reason(tmp_path: Path, case: str) -> None:
    """Both readers decide the same way, and a person can act on the words."""
    change, words = REFUSALS[case]
    images = series()
    change(images)
    paths = written(tmp_path, images)
    with pytest.raises(InputInvalid, match=words) as by_headers:
        read_headers(paths)
    with pytest.raises(InputInvalid, match=words) as by_pixels:
        read_series(paths)
    assert str(by_headers.value) == str(by_pixels.value)


def test_the_same_pixels_with_another_rescale_are_another_image(tmp_path: Path) -> None:
    """Equal bytes are not equal values."""
    images = series()
    again = one_image(9, stored_values()[2])
    again.ImagePositionPatient, again.ImageOrientationPatient = images[2].ImagePositionPatient, list(AXIAL)
    again.RescaleIntercept = 50
    with pytest.raises(InputInvalid, match="different images"):
        read_headers(written(tmp_path, [*images, again]))


@pytest.mark.parametrize("slope", ["0", "nan", "inf"])
def test_a_damaged_slope_is_refused(tmp_path: Path, slope: str) -> None:
    """No Hounsfield units come of it."""
    images = series()
    images[1].RescaleSlope = float(slope)
    with pytest.raises(InputInvalid, match="image 2: a rescale slope"):
        read_series(written(tmp_path, images))


def test_pixels_that_are_cut_are_refused_by_number(tmp_path: Path) -> None:
    """The person knows which image to send again."""
    images = series()
    images[2].PixelData = bytes(20)
    with pytest.raises(InputInvalid, match=r"image 3: the pixel data .* does not decode"):
        read_series(written(tmp_path, images))


def test_a_file_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    """A lost disk block must not look like a fault of ours."""
    paths = written(tmp_path, series())
    paths[1].write_bytes(b"nothing")
    with pytest.raises(InputInvalid, match="not a readable DICOM instance"):
        read_series(paths)


def test_no_images_are_no_volume() -> None:
    """An empty list is refused like any other."""
    with pytest.raises(InputInvalid, match="no images"):
        read_headers([])
