"""Series of a phantom that has no mirror image of itself, sampled by formula on any grid that scanners make.

The phantom lies in patient space: the letter F, extruded, on the patient's right, and a ball on the left, in a body.
Nothing here uses the product's geometry: positions are computed from PS3.3 C.7.6.2.1.1 alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

LETTER, BALL = "right-letter", "left-ball"
LETTER_HU, BALL_HU, BODY_HU, AIR_HU = 300, 600, 40, -1000
LEGACY_CT = "1.2.840.10008.5.1.4.1.1.2.2"  # Legacy Converted Enhanced CT Image Storage

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def oblique() -> tuple[float, ...]:
    """Turned by 20 degrees about the body's long axis and by 25 about its transverse one."""
    a, b = np.radians(20), np.radians(25)
    about_s = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_l = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn = about_s @ about_l
    return tuple(float(v) for v in (*turn[:, 0], *turn[:, 1]))


DOUBLE_OBLIQUE = oblique()


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How a scanner samples the phantom."""

    cosines: tuple[float, ...] = AXIAL
    shape: tuple[int, int, int] = (30, 56, 64)  # slices, rows, columns
    spacing: tuple[float, float, float] = (3.0, 2.0, 1.7)  # mm between slices, rows, columns
    tilt: float = 0.0  # degrees
    missing: tuple[int, ...] = ()
    uneven: bool = False  # slices grow further apart
    order: str = "ascending"  # of files and instance numbers: ascending, descending, shuffled
    flip_rows: bool = False  # columns run the other way
    flip_columns: bool = False
    patient: str = "HFS"  # how the patient lies
    container: str = "classic"  # classic, enhanced, legacy


@dataclass(frozen=True, kw_only=True)
class Made:
    """A sampled series."""

    instances: list[Dataset]  # as sent, with pixels
    headers: tuple[Dataset, ...]  # one for each slice, sorted along the normal, without pixels
    frames: tuple[int, ...]  # of each slice, where the container is one multi-frame image
    points: NDArray[np.float64] = field(repr=False)  # (slices, rows, columns, 3): LPS of each pixel's centre
    depths: NDArray[np.float64] = field(repr=False)  # (slices,): mm that each slice stands for
    masks: dict[str, NDArray[np.bool_]] = field(repr=False)

    def volume_ml(self, key: str) -> float:
        """Voxels counted, each as deep as its slice stands for."""
        counts = np.count_nonzero(self.masks[key], axis=(1, 2))
        rows, columns = (float(v) for v in self.headers[0].PixelSpacing)
        return float(counts @ self.depths) * rows * columns / 1000

    def centroid(self, key: str) -> NDArray[np.float64]:
        """Mean position (LPS) of the voxels."""
        mean: NDArray[np.float64] = self.points[self.masks[key]].mean(axis=0)
        return mean


def inside(points: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Which of *points* (..., 3) lie in the letter and in the ball."""
    left, posterior, superior = np.moveaxis(points, -1, 0)
    ball = (left - 22) ** 2 + (posterior - 6) ** 2 + (superior - 8) ** 2 <= 13**2
    x, y = left + 40, superior + 24  # the letter stands upright, seen from the front: stem on the patient's right
    stem = (x >= 0) & (x <= 6) & (y >= 0) & (y <= 40)
    arms = (x >= 0) & (x <= 22) & (y >= 34) & (y <= 40) | (x >= 0) & (x <= 15) & (y >= 18) & (y <= 24)
    letter = (stem | arms) & (posterior >= -16) & (posterior <= 10)
    return {LETTER: letter, BALL: ball}


def body(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A body around both."""
    left, posterior, _ = np.moveaxis(points, -1, 0)
    found: NDArray[np.bool_] = (left / 50) ** 2 + (posterior / 40) ** 2 <= 1
    return found


def make(grid: Grid, uid: str = "2.25.8800") -> Made:
    """Sample the phantom on *grid*."""
    along_row, along_column = _directions(grid)
    normal = np.cross(along_row, along_column)
    heights = _heights(grid)
    kept = [n for n in range(grid.shape[0]) if n not in grid.missing]
    lean = np.tan(np.radians(grid.tilt)) * along_column
    rows, columns = grid.shape[1:]
    corner = -along_column * grid.spacing[1] * (rows - 1) / 2 - along_row * grid.spacing[2] * (columns - 1) / 2
    origins = np.array([corner + heights[n] * (normal + lean) for n in kept])
    r, c = np.mgrid[0:rows, 0:columns].astype(float)
    plane = r[..., None] * grid.spacing[1] * along_column + c[..., None] * grid.spacing[2] * along_row
    points = origins[:, None, None, :] + plane[None]
    masks = inside(points)
    values = np.where(body(points), BODY_HU, AIR_HU).astype(np.int16)
    values[masks[LETTER]], values[masks[BALL]] = LETTER_HU, BALL_HU
    cosines = (*along_row, *along_column)
    headers = [_header(grid, uid, place, origin, cosines) for place, origin in enumerate(origins)]
    instances, frames = _packed(grid, headers, values, uid)
    return Made(
        instances=instances, headers=tuple(headers), frames=frames, points=points, masks=masks,
        depths=_depths(np.array([heights[n] for n in kept])),
    )  # fmt: skip


def _directions(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    along_row, along_column = np.array(grid.cosines[:3]), np.array(grid.cosines[3:])
    if grid.patient in ("HFP", "FFP"):  # face down: what was left and front in the gantry is right and back
        along_row, along_column = along_row * (-1, -1, 1), along_column * (-1, -1, 1)
    if grid.patient in ("FFS", "FFP"):  # feet first: the patient is turned round, left for right and head for foot
        along_row, along_column = along_row * (-1, 1, -1), along_column * (-1, 1, -1)
    return along_row * (-1 if grid.flip_rows else 1), along_column * (-1 if grid.flip_columns else 1)


def _heights(grid: Grid) -> NDArray[np.float64]:
    steps = np.full(grid.shape[0] - 1, grid.spacing[0])
    if grid.uneven:
        steps = steps * np.linspace(0.8, 1.2, len(steps))
    heights = np.concatenate([[0.0], np.cumsum(steps)])
    centred: NDArray[np.float64] = heights - heights.mean()
    return centred


def _depths(heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the way to each neighbour; the outermost slices reach as far outwards as is usual."""
    steps = np.diff(heights)
    padded = np.concatenate([[np.median(steps)], steps, [np.median(steps)]])
    depths: NDArray[np.float64] = (padded[:-1] + padded[1:]) / 2
    return depths


def _header(grid: Grid, uid: str, place: int, origin: NDArray[np.float64], cosines: Sequence[float]) -> Dataset:
    """One slice without pixels; its SOP Instance UID and number are set when it is packed."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{uid}.1.{place + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uid, f"{uid}.1", f"{uid}.9"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^Letter", "PH-1", "19700101", "O"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260304", "040000", "1", "A1"
    ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260304"
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "040100"
    ds.ReferringPhysicianName, ds.StudyDescription, ds.SeriesDescription = "", "Phantom", "Phantom CT"
    ds.ImageType, ds.Modality, ds.BodyPartExamined = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", "CHEST"
    ds.Manufacturer, ds.ManufacturerModelName, ds.PositionReferenceIndicator = "Maker", "Scanner", ""
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    ds.PatientPosition, ds.KVP, ds.AcquisitionNumber, ds.SeriesNumber = grid.patient, 120, 1, 3
    ds.ImageOrientationPatient = [f"{v:.10f}" for v in cosines]
    ds.ImagePositionPatient = [f"{v:.8f}" for v in origin]
    ds.PixelSpacing, ds.SliceThickness = [grid.spacing[1], grid.spacing[2]], grid.spacing[0]
    ds.InstanceNumber = place + 1
    ds.Rows, ds.Columns = grid.shape[1:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 700
    return ds


def _packed(
    grid: Grid, headers: list[Dataset], values: NDArray[np.int16], uid: str
) -> tuple[list[Dataset], tuple[int, ...]]:
    """The instances in the order that they are sent; the headers learn their numbers, and their frames."""
    order = list(range(len(headers)))
    if grid.order == "descending":
        order.reverse()
    if grid.order == "shuffled":
        random.Random(7).shuffle(order)
    stored = (values.astype(np.int32) + 1024).astype("<i2")
    if grid.container == "classic":
        for number, place in enumerate(order, start=1):
            headers[place].InstanceNumber = number
        return [_with_pixels(headers[place], stored[place]) for place in order], ()
    whole = _multiframe(grid, [headers[place] for place in order], stored[order], uid)
    frames = [0] * len(headers)
    for number, place in enumerate(order, start=1):
        frames[place] = number
        headers[place].SOPClassUID, headers[place].SOPInstanceUID = whole.SOPClassUID, whole.SOPInstanceUID
    return [whole], tuple(frames)


def _with_pixels(header: Dataset, pixels: NDArray[np.int16]) -> Dataset:
    ds = Dataset()
    ds.update(header)
    ds.file_meta = header.file_meta
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


_PER_FRAME = frozenset({
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleIntercept",
    "RescaleSlope", "RescaleType", "WindowCenter", "WindowWidth", "InstanceNumber", "SOPClassUID", "SOPInstanceUID",
    "ImageType", "KVP", "AcquisitionDate", "AcquisitionTime", "AcquisitionNumber",
})  # fmt: skip


def _multiframe(grid: Grid, headers: list[Dataset], stored: NDArray[np.int16], uid: str) -> Dataset:
    """An Enhanced CT image (PS3.3 A.38.1), or what a converter makes of classic ones (A.70)."""
    whole = Dataset()
    for element in headers[0]:
        if element.keyword not in _PER_FRAME:
            whole.add(element)
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    whole.SOPClassUID = EnhancedCTImageStorage if grid.container == "enhanced" else LEGACY_CT
    whole.SOPInstanceUID, whole.InstanceNumber = f"{uid}.1.1", 1
    whole.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    whole.PixelPresentation, whole.VolumetricProperties, whole.VolumeBasedCalculationTechnique = (
        "MONOCHROME", "VOLUME", "NONE",
    )  # fmt: skip
    whole.ContentQualification, whole.BurnedInAnnotation, whole.LossyImageCompression = "RESEARCH", "NO", "00"
    whole.PresentationLUTShape, whole.AcquisitionDateTime = "IDENTITY", "20260304040100"
    whole.AcquisitionContextSequence = []
    organization = Dataset()
    organization.DimensionOrganizationUID = f"{uid}.8"
    whole.DimensionOrganizationSequence = [organization]
    index = Dataset()
    index.DimensionOrganizationUID, index.DimensionIndexPointer = f"{uid}.8", 0x00200032
    index.FunctionalGroupPointer = 0x00209113
    whole.DimensionIndexSequence = [index]
    measures, orientation, transform, window, kind = (Dataset() for _ in range(5))
    measures.PixelSpacing, measures.SliceThickness = headers[0].PixelSpacing, headers[0].SliceThickness
    orientation.ImageOrientationPatient = headers[0].ImageOrientationPatient
    transform.RescaleIntercept, transform.RescaleSlope, transform.RescaleType = -1024, 1, "HU"
    window.WindowCenter, window.WindowWidth = 40, 700
    kind.FrameType, kind.PixelPresentation, kind.VolumetricProperties = whole.ImageType, "MONOCHROME", "VOLUME"
    kind.VolumeBasedCalculationTechnique = "NONE"
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence, shared.FrameVOILUTSequence = [transform], [window]
    shared.CTImageFrameTypeSequence = [kind]
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = [_frame(n, header) for n, header in enumerate(headers, start=1)]
    whole.NumberOfFrames = len(headers)
    whole.PixelData = stored.tobytes()
    whole["PixelData"].VR = "OW"
    return whole


def _frame(number: int, header: Dataset) -> Dataset:
    group, content, position = Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues, content.FrameAcquisitionNumber = [number], 1
    content.FrameAcquisitionDateTime = content.FrameReferenceDateTime = "20260304040100"
    content.FrameAcquisitionDuration = 1.0
    content.StackID, content.InStackPositionNumber = "1", number
    position.ImagePositionPatient = header.ImagePositionPatient
    group.FrameContentSequence, group.PlanePositionSequence = [content], [position]
    return group
