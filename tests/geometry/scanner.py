"""A phantom without a mirror image, and every way in which a scanner may write it down.

The phantom lies in patient space (L, P, S in mm): the letter F on the patient's right, a ball on the left, further
back and lower. Each voxel is inside or outside by formula at its own centre. Nothing here uses the product's geometry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

Array = NDArray[np.float64]

LETTER, BALL = "letter", "ball"
AIR_HU, LETTER_HU, BALL_HU = -1000, 300, 600
#: Somewhere in the patient: no index of any grid is near to its own position in mm.
CENTRE = np.array([31.7, -12.9, 412.6])
_BALL_MIDDLE, _BALL_RADIUS = np.array([11.5, 3.8, -6.3]), 8.0
_RIGHT, _FOOT, _DEPTH = -19.0, -14.0, (-9.0, 6.0)  # corner of the letter, and how deep (P) it is
_STROKE, _ARM, _SHORT_ARM, _HEIGHT, _MIDDLE = 5.5, 18.0, 12.0, 28.0, 11.0

#: What may differ from scanner to scanner, from patient to patient, and on the way to us.
FACTORS: dict[str, tuple[str, ...]] = {
    "orientation": ("axial", "coronal", "sagittal", "double oblique"),
    "order": ("ascending", "descending", "shuffled", "lying"),
    "flip": ("none", "rows", "columns", "both"),
    "position": ("HFS", "HFP", "FFS", "FFP"),
    "tilt": ("0", "15"),
    "spacing": ("isotropic", "oblong", "irregular"),
    "missing": ("none", "two"),
    "container": ("classic", "enhanced", "legacy"),
}
_GRIDS = {  # slices, rows, columns; mm between them; columns are no multiple of 8
    "isotropic": ((32, 48, 41), (1.5, 1.5, 1.5)),
    "oblong": ((21, 64, 50), (2.5, 0.7, 1.1)),
    "irregular": ((24, 50, 43), (2.0, 1.2, 1.1)),
}
_PLANES = {  # row direction and column direction of a patient who lies head first, face up
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
}
_LEGACY_CT = UID("1.2.840.10008.5.1.4.1.1.2.2")  # Legacy Converted Enhanced CT Image Storage
_STUDY = "2.25.4242"


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One way to write the phantom down; each field is one of FACTORS."""

    orientation: str = "axial"
    order: str = "ascending"
    flip: str = "none"
    position: str = "HFS"
    tilt: str = "0"
    spacing: str = "isotropic"
    missing: str = "none"
    container: str = "classic"

    def __str__(self) -> str:
        """What is not as usual."""
        odd = [name for name, values in FACTORS.items() if getattr(self, name) != values[0]]
        return ",".join(f"{name}={getattr(self, name)}".replace(" ", "-") for name in odd) or "usual"

    @property
    def is_regular(self) -> bool:
        """Whether the slices lie straight above each other at one distance."""
        return self.tilt == "0" and self.missing == "none" and self.spacing != "irregular"

    @property
    def finest(self) -> float:
        """The smallest spacing in mm."""
        return min(_GRIDS[self.spacing][1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Scanned:
    """The phantom as one scan saw it; slices in the order of their heights along the image normal."""

    scan: Scan
    instances: tuple[Dataset, ...]  # as they are sent, with pixels
    headers: tuple[Dataset, ...]  # one for each slice
    frames: tuple[int, ...]  # which frame (from 1) each slice is; empty where each is a file
    centres: Array = field(repr=False)  # (slices, rows, columns, 3): LPS in mm
    depths: Array = field(repr=False)  # (slices,): mm along the normal that each slice stands for
    masks: dict[str, NDArray[np.bool_]] = field(repr=False)  # (slices, rows, columns)

    def centroid(self, key: str) -> Array:
        """Mean position (LPS, mm) of the centres of all voxels inside."""
        middle: Array = self.centres[self.masks[key]].mean(axis=0)
        return middle

    def volume_ml(self, key: str) -> float:
        """Voxels inside, each as deep as its slice reaches half the way to its neighbours."""
        _, between_rows, between_columns = _GRIDS[self.scan.spacing][1]
        inside = self.masks[key].sum(axis=(1, 2))
        return float((inside * self.depths).sum() * between_rows * between_columns / 1000)

    def write(self, folder: Path) -> list[Path]:
        """Write the instances as files, named in the order in which they are sent."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:03d}.dcm" for number in range(len(self.instances))]
        for path, instance in zip(paths, self.instances, strict=True):
            instance.save_as(path, enforce_file_format=True)
        return paths


def volume_of_formula(key: str) -> float:
    """Millilitres of the phantom itself: what every sampling comes near to."""
    if key == BALL:
        return float(4 / 3 * np.pi * _BALL_RADIUS**3 / 1000)
    strokes = _HEIGHT * _STROKE + (_ARM - _STROKE) * _STROKE + (_SHORT_ARM - _STROKE) * _STROKE
    return strokes * (_DEPTH[1] - _DEPTH[0]) / 1000


def inside(centres: Array) -> dict[str, NDArray[np.bool_]]:
    """Which of *centres* (..., 3) lie in the letter and in the ball."""
    left, posterior, superior = np.moveaxis(centres - CENTRE, -1, 0)
    across, up = left - _RIGHT, superior - _FOOT  # seen from the front an upright F, its stem on the patient's right
    stem = (across >= 0) & (across < _STROKE) & (up >= 0) & (up < _HEIGHT)
    arm = (across >= 0) & (across < _ARM) & (up >= _HEIGHT - _STROKE) & (up < _HEIGHT)
    short = (across >= 0) & (across < _SHORT_ARM) & (up >= _MIDDLE) & (up < _MIDDLE + _STROKE)
    deep = (posterior >= _DEPTH[0]) & (posterior < _DEPTH[1])
    ball = np.linalg.norm(centres - CENTRE - _BALL_MIDDLE, axis=-1) <= _BALL_RADIUS
    return {LETTER: (stem | arm | short) & deep, BALL: ball}


# -- which scans


def every_scan() -> Iterator[Scan]:
    """The whole product of FACTORS."""
    for values in product(*FACTORS.values()):
        yield Scan(**dict(zip(FACTORS, values, strict=True)))


def covering_scans() -> list[Scan]:
    """A few scans in which any two values of any two factors meet at least once; the same ones every time.

    Once over all factors, and once over those of regular stacks alone, where everything has to agree to the voxel.
    """
    regular = FACTORS | {"tilt": ("0",), "missing": ("none",), "spacing": ("isotropic", "oblong")}
    return list(dict.fromkeys([*_covering(regular), *_covering(FACTORS)]))


def _covering(factors: dict[str, tuple[str, ...]]) -> list[Scan]:
    """One after the other take the scan that meets most pairs not yet met, of a hundred drawn with a fixed seed."""
    generator = np.random.default_rng(1895)
    unmet = pairs_of(factors)
    chosen = []
    while unmet:
        first, second = min(unmet)
        drawn = [
            {name: str(generator.choice(values)) for name, values in factors.items()} | dict((first, second))
            for _ in range(100)
        ]
        best = max(drawn, key=lambda values: len(unmet & set(combinations(values.items(), 2))))
        unmet -= set(combinations(best.items(), 2))
        chosen.append(Scan(**best))
    return chosen


def pairs_of(factors: dict[str, tuple[str, ...]]) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    """Return every two values of every two factors."""
    return {
        ((a, one), (b, other)) for a, b in combinations(factors, 2) for one in factors[a] for other in factors[b]
    }


# -- the gantry


def scan_phantom(scan: Scan) -> Scanned:
    """Return the phantom as *scan* sees it."""
    (slices, rows, columns), spacing = _GRIDS[scan.spacing]
    along_row, along_column, table = _directions(scan)
    normal = np.cross(along_row, along_column)
    kept = np.array([n for n in range(slices) if scan.missing == "none" or n not in (slices // 2 - 1, slices // 2)])
    heights = _heights(scan)[kept]
    corner = CENTRE - along_row * spacing[2] * (columns - 1) / 2 - along_column * spacing[1] * (rows - 1) / 2
    corners = corner + np.outer(heights / (table @ normal), table)  # the table moves; heights are along the normal
    corners = np.round(corners, 6)  # as written
    down, across = np.arange(rows) * spacing[1], np.arange(columns) * spacing[2]
    in_plane = down[:, None, None] * along_column + across[:, None] * along_row
    centres = corners[:, None, None, :] + in_plane
    masks = inside(centres)
    values = np.full(masks[BALL].shape, AIR_HU, dtype=np.int16)
    values[masks[LETTER]], values[masks[BALL]] = LETTER_HU, BALL_HU
    headers = [_header(scan, place, corners[place], (*along_row, *along_column)) for place in range(len(kept))]
    instances, frames = _sent(scan, headers, values)
    return Scanned(
        scan=scan, instances=instances, headers=tuple(headers), frames=frames, centres=centres, masks=masks,
        depths=_depths(heights),
    )  # fmt: skip


def _directions(scan: Scan) -> tuple[Array, Array, Array]:
    """Row direction, column direction and the table's, in patient coordinates."""
    along_row, along_column = _plane(scan.orientation)
    # The planes stay where they are in the room; the patient is turned about the long axis (prone), or about the
    # vertical one (feet first). So in the patient's coordinates the planes turn the other way; both are half turns.
    if scan.position in ("HFP", "FFP"):
        along_row, along_column = (one * np.array([-1, -1, 1]) for one in (along_row, along_column))
    if scan.position in ("FFS", "FFP"):
        along_row, along_column = (one * np.array([-1, 1, -1]) for one in (along_row, along_column))
    table = np.cross(along_row, along_column)
    if scan.tilt != "0":  # the gantry leans about the row direction, the table moves on as before
        angle = np.radians(float(scan.tilt))
        along_column = np.cos(angle) * along_column + np.sin(angle) * table
    along_row = -along_row if scan.flip in ("columns", "both") else along_row
    along_column = -along_column if scan.flip in ("rows", "both") else along_column
    along_row, along_column = (np.round(one, 8) for one in (along_row, along_column))  # as written
    return along_row, along_column, table


def _plane(orientation: str) -> tuple[Array, Array]:
    if orientation in _PLANES:
        along_row, along_column = _PLANES[orientation]
        return np.array(along_row, float), np.array(along_column, float)
    a, b = np.radians(20), np.radians(-25)  # about the long axis, then about the axis from left to right
    about_s = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_l = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turned = about_l @ about_s
    return turned[:, 0], turned[:, 1]


def _heights(scan: Scan) -> Array:
    """(slices,): mm along the normal, the middle at 0, none missing."""
    (slices, _, _), (step, _, _) = _GRIDS[scan.spacing]
    steps = np.full(slices - 1, step)
    if scan.spacing == "irregular":
        steps = step * np.random.default_rng(11).uniform(0.75, 1.25, slices - 1).round(2)
    heights = np.concatenate([[0.0], np.cumsum(steps)])
    centred: Array = heights - (heights[0] + heights[-1]) / 2
    return centred


def _depths(heights: Array) -> Array:
    """Half the way to each neighbour; the first and the last reach outwards by half the usual (median) step."""
    usual = float(np.median(np.diff(heights)))
    depths = np.empty(len(heights))
    for place, height in enumerate(heights):
        below = height - heights[place - 1] if place > 0 else usual
        above = heights[place + 1] - height if place + 1 < len(heights) else usual
        depths[place] = (below + above) / 2
    return depths


# -- the files


def _sent(
    scan: Scan, headers: list[Dataset], values: NDArray[np.int16]
) -> tuple[tuple[Dataset, ...], tuple[int, ...]]:
    """The instances in the order of their files; the headers learn their numbers."""
    count = len(headers)
    order = list(range(count))  # place of the first file, of the second, ...
    if scan.order == "descending":
        order = order[::-1]
    if scan.order == "shuffled":
        order = np.random.default_rng(7).permutation(count).tolist()
    numbers = np.arange(1, count + 1)  # of each place
    if scan.order == "lying":  # numbers that say something else than both files and positions, and not even one each
        numbers = np.random.default_rng(3).permutation(count) // 2 + 1
        order = np.random.default_rng(5).permutation(count).tolist()
    for place, header in enumerate(headers):
        header.InstanceNumber = int(numbers[place])
    stored = (values.astype(np.int32) + 1024).astype("<i2")
    if scan.container == "classic":
        return tuple(_with_pixels(headers[place], stored[place]) for place in order), ()
    whole = _multiframe(scan, [headers[place] for place in order], stored[order])
    for header in headers:
        header.SOPClassUID, header.SOPInstanceUID = whole.SOPClassUID, whole.SOPInstanceUID
    frames = [0] * count
    for number, place in enumerate(order, start=1):
        frames[place] = number
    return (whole,), tuple(frames)


def _with_pixels(header: Dataset, pixels: NDArray[np.int16]) -> Dataset:
    made = Dataset()
    made.update(header)
    made.file_meta = header.file_meta
    made.PixelData = pixels.tobytes()
    made["PixelData"].VR = "OW"
    return made


def _meta() -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _common(scan: Scan) -> Dataset:
    """Patient, study, series, equipment and pixels: what single images and multi-frame ones say alike."""
    rows, columns = _GRIDS[scan.spacing][0][1:]
    ds = Dataset()
    ds.file_meta = _meta()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = _STUDY, f"{_STUDY}.1", f"{_STUDY}.9"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^Letter", "PHANTOM", "19700101", "O"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260304", "040000", "1", "A1"
    ds.SeriesDate, ds.SeriesTime, ds.SeriesNumber, ds.Modality = "20260304", "040100", 3, "CT"
    ds.ContentDate, ds.ContentTime = "20260304", "040200"
    ds.ReferringPhysicianName, ds.StudyDescription, ds.SeriesDescription = "", "Phantom", "Phantom CT"
    ds.Manufacturer, ds.ManufacturerModelName, ds.PositionReferenceIndicator = "Maker", "Scanner", ""
    ds.DeviceSerialNumber, ds.SoftwareVersions, ds.BodyPartExamined = "1", "1", "CHEST"
    ds.PatientPosition, ds.Rows, ds.Columns = scan.position, rows, columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    return ds


def _header(scan: Scan, place: int, corner: Array, cosines: tuple[float, ...]) -> Dataset:
    """One slice as an image of its own, without pixels."""
    (_, _, _), (thick, between_rows, between_columns) = _GRIDS[scan.spacing]
    ds = _common(scan)
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{_STUDY}.1.{place + 1}"
    ds.ImageType, ds.KVP, ds.AcquisitionNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 120, 1
    ds.AcquisitionDate, ds.AcquisitionTime, ds.GantryDetectorTilt = "20260304", "040200", scan.tilt
    ds.ImageOrientationPatient = [f"{v:.8f}" for v in cosines]
    ds.ImagePositionPatient = [f"{v:.6f}" for v in corner]
    ds.PixelSpacing, ds.SliceThickness = [between_rows, between_columns], thick
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    return ds


def _multiframe(scan: Scan, headers: list[Dataset], stored: NDArray[np.int16]) -> Dataset:
    """An Enhanced CT image (PS3.3 A.38.1), or what a converter makes of classic ones (A.70)."""
    enhanced = scan.container == "enhanced"
    whole = _common(scan)
    whole.SOPClassUID = EnhancedCTImageStorage if enhanced else _LEGACY_CT
    whole.SOPInstanceUID, whole.InstanceNumber, whole.NumberOfFrames = f"{_STUDY}.2.1", 1, len(headers)
    whole.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    whole.PixelPresentation, whole.VolumetricProperties = "MONOCHROME", "VOLUME"
    whole.VolumeBasedCalculationTechnique, whole.ContentQualification = "NONE", "RESEARCH"
    whole.BurnedInAnnotation, whole.LossyImageCompression, whole.PresentationLUTShape = "NO", "00", "IDENTITY"
    whole.AcquisitionDateTime, whole.AcquisitionContextSequence = "20260304040200", []
    whole.AcquisitionNumber, whole.AcquisitionDuration = 1, 1.0
    whole.MultienergyCTAcquisition = "NO"
    whole.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=f"{_STUDY}.8")]
    whole.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=f"{_STUDY}.8", DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111
        )
        for pointer in (0x00209056, 0x00209057)  # Stack ID, In-Stack Position Number
    ]  # fmt: skip
    own = [_frame(number, header) for number, header in enumerate(headers, start=1)]
    shared = Dataset()
    # A scanner says once what all frames share; the converter leaves each frame what its file said.
    for group in [shared] if enhanced else own:
        _geometry(group, headers[0])
    if enhanced:
        _acquisition(shared, scan)
    else:
        for group, header in zip(own, headers, strict=True):
            group.UnassignedPerFrameConvertedAttributesSequence = [Dataset()]
            group.ConversionSourceAttributesSequence = [
                _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
            ]
        shared.UnassignedSharedConvertedAttributesSequence = [Dataset()]
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = [shared], own
    whole.PixelData = stored.tobytes()
    whole["PixelData"].VR = "OW"
    return whole


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _frame(number: int, header: Dataset) -> Dataset:
    """Where one frame lies; its stack position says no more than its instance number did."""
    stack = int(header.InstanceNumber)
    content = _item(
        DimensionIndexValues=[1, stack], StackID="1", InStackPositionNumber=stack, FrameAcquisitionNumber=number,
        FrameAcquisitionDateTime="20260304040200", FrameReferenceDateTime="20260304040200",
        FrameAcquisitionDuration=1.0,
    )  # fmt: skip
    return _item(
        FrameContentSequence=[content],
        PlanePositionSequence=[_item(ImagePositionPatient=header.ImagePositionPatient)],
    )


def _geometry(group: Dataset, header: Dataset) -> None:
    group.PixelMeasuresSequence = [_item(PixelSpacing=header.PixelSpacing, SliceThickness=header.SliceThickness)]
    group.PlaneOrientationSequence = [_item(ImageOrientationPatient=header.ImageOrientationPatient)]
    group.PixelValueTransformationSequence = [_item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")]
    group.CTImageFrameTypeSequence = [
        _item(
            FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME", VolumeBasedCalculationTechnique="NONE",
        )
    ]  # fmt: skip
    chest = _item(CodeValue="51185008", CodingSchemeDesignator="SCT", CodeMeaning="Chest")
    group.FrameAnatomySequence = [_item(FrameLaterality="U", AnatomicRegionSequence=[chest])]


def _acquisition(shared: Dataset, scan: Scan) -> None:
    """The CT macros that an original Enhanced CT image has to carry (PS3.3 C.8.15.3)."""
    shared.IrradiationEventIdentificationSequence = [_item(IrradiationEventUID=f"{_STUDY}.7")]
    shared.CTAcquisitionTypeSequence = [
        _item(AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
    ]
    shared.CTAcquisitionDetailsSequence = [
        _item(
            RotationDirection="CW", RevolutionTime=1.0, SingleCollimationWidth=1.0, TotalCollimationWidth=1.0,
            TableHeight=100.0, GantryDetectorTilt=scan.tilt, DataCollectionDiameter=500.0,
        )
    ]  # fmt: skip
    shared.CTTableDynamicsSequence = [_item(TableSpeed=1.0, TableFeedPerRotation=1.0, SpiralPitchFactor=1.0)]
    shared.CTPositionSequence = [
        _item(
            TablePosition=0.0, ReconstructionTargetCenterPatient=list(CENTRE),
            DataCollectionCenterPatient=list(CENTRE),
        )
    ]  # fmt: skip
    shared.CTGeometrySequence = [_item(DistanceSourceToDetector=1000.0, DistanceSourceToDataCollectionCenter=500.0)]
    shared.CTReconstructionSequence = [
        _item(
            ReconstructionAlgorithm="FILTER_BACK_PROJ", ConvolutionKernel="B", ConvolutionKernelGroup="BRAIN",
            ReconstructionDiameter=100.0, ReconstructionPixelSpacing=[1.0, 1.0], ReconstructionAngle=360.0,
            ImageFilter="NONE",
        )
    ]  # fmt: skip
    shared.CTExposureSequence = [
        _item(
            ExposureTimeInms=1000.0, XRayTubeCurrentInmA=100.0, ExposureInmAs=100.0, ExposureModulationType="NONE",
        )
    ]  # fmt: skip
    shared.CTXRayDetailsSequence = [_item(KVP=120, FocalSpots=1.0, FilterType="FLAT", FilterMaterial="ALUMINUM")]
