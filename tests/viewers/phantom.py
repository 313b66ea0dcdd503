"""A made-up CT, nowhere its own mirror image, as every kind of source that a hospital sends, and what lies in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from models.contract import Card, Code, Detection, Findings, MapKind, Segment, SegmentKind, ValueMap
from node.dicom.context import NodeIdentity, ResultContext
from node.testing import synthetic_ct

SLICES, ROWS, COLUMNS = 24, 256, 256
SPACING = (3.0, 1.2, 1.2)  # mm between slices, rows and columns
OBLIQUE = (0.96, 0.0, 0.28, 0.0, 1.0, 0.0)
TILT_MM = 0.8  # the rows that each slice of the tilted series lies further down: 15 degrees

_ANATOMY = Code(value="123037004", scheme="SCT", meaning="Anatomical Structure")
_ABNORMAL = Code(value="49755003", scheme="SCT", meaning="Morphologically Altered Structure")
_LUNG = Code(value="39607008", scheme="SCT", meaning="Lung")
_RIGHT = Code(value="24028007", scheme="SCT", meaning="Right")
_LEFT = Code(value="7771000", scheme="SCT", meaning="Left")
_HEART = Code(value="80891009", scheme="SCT", meaning="Heart")
_NODULE = Code(value="27925004", scheme="SCT", meaning="Nodule")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """An ellipsoid: middle and half axes (z, y, x) in voxels."""

    middle: tuple[float, float, float]
    half: tuple[float, float, float]

    def on(self, rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.bool_]:
        """Return the voxels of the shape, (slices, rows, columns)."""
        z, y, x = np.ogrid[:SLICES, :rows, :columns]
        parts = ((index - m) / h for index, m, h in zip((z, y, x), self.middle, self.half, strict=True))
        squares = [part**2 for part in parts]
        return np.asarray(squares[0] + squares[1] + squares[2] <= 1)


BODY = Shape(middle=(11.5, 130, 126), half=(40, 92, 112))
#: Unequal in size, height and depth: a flip or swap of any axis puts one where it cannot be.
RIGHT_LUNG = Shape(middle=(11, 112, 70), half=(10, 58, 32))
LEFT_LUNG = Shape(middle=(13, 128, 186), half=(9, 40, 24))
HEART = Shape(middle=(12, 162, 160), half=(6, 26, 26))  # reaches into the left lung
NODULE = Shape(middle=(14, 96, 58), half=(2.5, 9, 9))  # in the right lung, above its middle

RIGHT_KIND = SegmentKind(
    key="right-lung", label="Right lung", category=_ANATOMY, type=_LUNG, colour=(240, 60, 50), laterality=_RIGHT
)
LEFT_KIND = SegmentKind(
    key="left-lung", label="Left lung", category=_ANATOMY, type=_LUNG, colour=(150, 60, 250), laterality=_LEFT
)
HEART_KIND = SegmentKind(key="heart", label="Heart", category=_ANATOMY, type=_HEART, colour=(40, 210, 60))
NODULE_KIND = SegmentKind(
    key="nodule", label="Lung nodule", category=_ABNORMAL, type=_NODULE, colour=(240, 220, 40), site=_LUNG
)
ORGANS = Card(
    name="ct-organs", title="Organs", version="1.2.0", kind="segmentation", purpose="test of viewers", modality="CT",
    segments=(RIGHT_KIND, LEFT_KIND, HEART_KIND), sites=(), limits=(), figures=(),
)  # fmt: skip
NODULES = replace(
    ORGANS, name="ct-nodules", title="Lung nodules", kind="detection", segments=(NODULE_KIND,),
    sites=(RIGHT_KIND, LEFT_KIND),
)  # fmt: skip


MAPPED = replace(
    ORGANS, name="ct-map", title="Likelihood",
    maps=(
        MapKind(
            key="likelihood", label="Likelihood", quantity=Code(value="113075", scheme="DCM", meaning="Probability"),
            unit=Code(value="1", scheme="UCUM", meaning="no units"),
        ),
    ),
)  # fmt: skip
COLOURS = {kind.key: kind.colour for kind in (RIGHT_KIND, LEFT_KIND, HEART_KIND, NODULE_KIND)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """One series: the instances that are sent, and a header for each slice of the masks."""

    instances: tuple[Dataset, ...]
    headers: tuple[Dataset, ...]
    frames: tuple[int, ...] = ()
    places: tuple[int, ...] = tuple(range(SLICES))  # which slice of the phantom each header is

    @property
    def study(self) -> str:
        """The Study Instance UID."""
        return str(self.headers[0].StudyInstanceUID)

    def plane(self, shape: Shape, place: int) -> NDArray[np.bool_]:
        """Return the voxels (rows, columns) of *shape* in slice *place* of the phantom."""
        found: NDArray[np.bool_] = shape.on(self.headers[0].Rows, self.headers[0].Columns)[place]
        return found

    def position(self, place: int) -> int:
        """Return where OHIF shows slice *place* of the phantom, from 1: images from the head on, frames as numbered."""
        index = self.places.index(place)
        return self.frames[index] if self.frames else len(self.headers) - index

    def patient(
        self, index: float, row: float, column: float, origin: Sequence[float] | None = None
    ) -> tuple[float, float, float]:
        """Return the patient position (L, P, S) in mm of a voxel of an even stack (PS3.3 C.7.6.2.1.1).

        *origin* is the first pixel's, where the slices are not counted from the first of this series.
        """
        first = self.headers[0]
        cosines = np.array(first.ImageOrientationPatient, float)
        across, down, up = cosines[:3], cosines[3:], np.cross(cosines[:3], cosines[3:])
        steps = up * SPACING[0] * index + down * SPACING[1] * row + across * SPACING[2] * column
        left, posterior, superior = np.array(origin or first.ImagePositionPatient, float) + steps
        return float(left), float(posterior), float(superior)

    def mask(self, shape: Shape) -> NDArray[np.bool_]:
        """Return the voxels of *shape* in the slices that this series has, (slices, rows, columns)."""
        return np.stack([self.plane(shape, place) for place in self.places])

    def context(self, card: Card) -> ResultContext:
        """Return the context of results of *card* on this series."""
        node = NodeIdentity(node_id="node-7", serial="0001", software_version="0.1.0")
        return ResultContext(
            sources=self.headers, card=card, model_digest="d" * 64, node=node, revision=1, input_digest="i" * 64,
            at=datetime(2026, 1, 15, 10, 30, tzinfo=UTC), frames=self.frames,
        )  # fmt: skip


def axial(
    study: str, *, rows: int = ROWS, columns: int = COLUMNS, orientation: Sequence[float] = (1, 0, 0, 0, 1, 0)
) -> Source:
    """Return the series as scanners send it: one instance for each slice, the first nearest to the feet."""
    values = _values(rows, columns)
    made = synthetic_ct(
        slices=SLICES, rows=rows, columns=columns, spacing=SPACING, orientation=tuple(orientation), uid_prefix=study,
        corner=(-150.0, -150.0, 40.0), series_number=2, series_description="Phantom",
        patient_id=f"VIEWERS-{study[-9:]}", patient_name="PHANTOM^VIEWERS",  # else every study is a prior of the next
    )  # fmt: skip
    for ds, plane in zip(made, values, strict=True):
        ds.PixelData = (plane + 1024).astype("<i2").tobytes()
    return Source(instances=tuple(made), headers=tuple(made))


def _values(rows: int, columns: int) -> NDArray[np.int16]:
    """Hounsfield units (slices, rows, columns); the lungs are kept grey, so that a colour on them is seen."""
    values = np.full((SLICES, rows, columns), -1000, np.int16)
    parts = ((BODY, 40), (HEART, 120), (RIGHT_LUNG, -110), (LEFT_LUNG, -90), (NODULE, 60))
    for shape, level in parts:
        values[shape.on(rows, columns)] = level
    return values


def narrow(study: str) -> Source:
    """250 columns: rows of one-bit pixels end inside a byte, frames do not."""
    return axial(study, columns=250)


def odd(study: str) -> Source:
    """253 rows of 250 columns: frames of one-bit pixels end inside a byte too."""
    return axial(study, rows=253, columns=250)


def oblique(study: str) -> Source:
    """Turned by 16 degrees about the axis from front to back."""
    return axial(study, orientation=OBLIQUE)


def reversed_numbers(study: str) -> Source:
    """Instance numbers and UIDs run from head to feet, while masks run from feet to head."""
    made = axial(study)
    heights = [list(ds.ImagePositionPatient) for ds in made.instances]
    planes = [ds.PixelData for ds in made.instances]
    for ds, height, plane in zip(made.instances, reversed(heights), reversed(planes), strict=True):
        ds.ImagePositionPatient, ds.PixelData = height, plane
    return replace(made, headers=tuple(reversed(made.instances)))


def tilted(study: str) -> Source:
    """A tilted gantry: slices lie straight above each other along z, each further down its plane."""
    made = axial(study)
    for index, ds in enumerate(made.instances):
        left, posterior, superior = (float(mm) for mm in ds.ImagePositionPatient)
        ds.ImagePositionPatient = [left, round(posterior + index * TILT_MM, 6), superior]
        ds.GantryDetectorTilt = 15
    return made


def with_gaps(study: str) -> Source:
    """Three slices never came."""
    made = axial(study)
    places = tuple(index for index in range(SLICES) if index not in (5, 9, 10))
    kept = tuple(made.instances[index] for index in places)
    return replace(made, instances=kept, headers=kept, places=places)


def enhanced(study: str) -> Source:
    """All slices as frames of one Enhanced CT image (PS3.3 A.38)."""
    singles = axial(study).instances
    image = _enhanced_image(singles)
    headers = []
    for single in singles:
        header = deepcopy(single)
        header.SOPClassUID, header.SOPInstanceUID = EnhancedCTImageStorage, image.SOPInstanceUID
        header.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
        headers.append(header)
    return Source(instances=(image,), headers=tuple(headers), frames=tuple(range(1, len(singles) + 1)))


def _enhanced_image(singles: Sequence[Dataset]) -> Dataset:
    first = singles[0]
    image = deepcopy(first)
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleIntercept",
        "RescaleSlope", "RescaleType", "WindowCenter", "WindowWidth", "KVP", "AcquisitionDate", "AcquisitionTime",
        "BodyPartExamined",
    ):  # fmt: skip
        delattr(image, keyword)
    image.SOPClassUID, image.SOPInstanceUID = EnhancedCTImageStorage, f"{first.SeriesInstanceUID}.100"
    image.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    image.InstanceNumber, image.NumberOfFrames = 1, len(singles)
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    image.ContentQualification, image.PixelPresentation, image.VolumetricProperties = "PRODUCT", "MONOCHROME", "VOLUME"
    image.VolumeBasedCalculationTechnique, image.PresentationLUTShape = "NONE", "IDENTITY"
    image.AcquisitionDateTime, image.AcquisitionDuration = "20260115101500", 4.0
    image.BurnedInAnnotation, image.LossyImageCompression = "NO", "00"
    image.Manufacturer, image.ManufacturerModelName = "Synthetic", "Formula"
    image.DeviceSerialNumber, image.SoftwareVersions = "1", "1"
    image.AcquisitionContextSequence = []
    image.SharedFunctionalGroupsSequence = [_shared(first)]
    image.PerFrameFunctionalGroupsSequence = [_frame(number, ds) for number, ds in enumerate(singles, start=1)]
    image.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=f"{first.SeriesInstanceUID}.101")]
    image.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=f"{first.SeriesInstanceUID}.101", DimensionIndexPointer=0x00209057,
            FunctionalGroupPointer=0x00209111,
        )
    ]  # fmt: skip
    image.PixelData = b"".join(ds.PixelData for ds in singles)
    return image


def _shared(first: Dataset) -> Dataset:
    """What all frames have in common (PS3.3 A.38.1.4)."""
    chest = _item(CodeValue="43799004", CodingSchemeDesignator="SCT", CodeMeaning="Thoracic cavity")
    return _item(
        PixelMeasuresSequence=[_item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=first.ImageOrientationPatient)],
        FrameAnatomySequence=[_item(FrameLaterality="U", AnatomicRegionSequence=[chest])],
        PixelValueTransformationSequence=[
            _item(RescaleIntercept=first.RescaleIntercept, RescaleSlope=first.RescaleSlope, RescaleType="HU")
        ],
        FrameVOILUTSequence=[_item(WindowCenter=first.WindowCenter, WindowWidth=first.WindowWidth)],
        CTImageFrameTypeSequence=[
            _item(
                FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME", VolumeBasedCalculationTechnique="NONE",
            )
        ],
        CTAcquisitionTypeSequence=[
            _item(AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
        ],
        CTAcquisitionDetailsSequence=[
            _item(
                RotationDirection="CW", RevolutionTime=0.5, SingleCollimationWidth=3.0, TotalCollimationWidth=3.0,
                TableHeight=100.0, GantryDetectorTilt=0.0, DataCollectionDiameter=400.0,
            )
        ],
        CTTableDynamicsSequence=[_item()],
        CTPositionSequence=[
            _item(
                TablePosition=0.0, ReconstructionTargetCenterPatient=[0.0, 0.0, 0.0],
                DataCollectionCenterPatient=[0.0, 0.0, 0.0],
            )
        ],
        CTGeometrySequence=[
            _item(DistanceSourceToDetector=1000.0, DistanceSourceToDataCollectionCenter=500.0)
        ],
        CTReconstructionSequence=[
            _item(
                ReconstructionAlgorithm="FILTER_BACK_PROJ", ConvolutionKernel="STANDARD",
                ConvolutionKernelGroup="SOFT_TISSUE", ReconstructionDiameter=307.2, ReconstructionAngle=360.0,
                ReconstructionPixelSpacing=first.PixelSpacing, ImageFilter="NONE",
            )
        ],
        CTExposureSequence=[
            _item(
                ExposureTimeInms=500.0, XRayTubeCurrentInmA=100.0, ExposureInmAs=50.0, ExposureModulationType="NONE"
            )
        ],
        IrradiationEventIdentificationSequence=[
            _item(IrradiationEventUID=f"{first.SeriesInstanceUID}.102")
        ],
        CTXRayDetailsSequence=[_item(KVP=120.0, FocalSpots=[1.0], FilterType="NONE", FilterMaterial="MIXED")],
    )  # fmt: skip


def _frame(number: int, single: Dataset) -> Dataset:
    return _item(
        FrameContentSequence=[
            _item(
                FrameAcquisitionNumber=1, FrameReferenceDateTime="20260115101500",
                FrameAcquisitionDateTime="20260115101500", FrameAcquisitionDuration=500.0, StackID="1",
                InStackPositionNumber=number, DimensionIndexValues=[number],
            )
        ],
        PlanePositionSequence=[_item(ImagePositionPatient=single.ImagePositionPatient)],
    )  # fmt: skip


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


SOURCES: dict[str, Callable[[str], Source]] = {
    "axial": axial, "oblique": oblique, "reversed": reversed_numbers, "tilted": tilted, "gaps": with_gaps,
    "enhanced": enhanced, "narrow": narrow, "odd": odd,
}  # fmt: skip


def organs(source: Source, shapes: Mapping[str, Shape] | None = None) -> Findings:
    """Return organs as findings, by default both lungs."""
    wanted = shapes or {"right-lung": RIGHT_LUNG, "left-lung": LEFT_LUNG}
    made = [(key, source.mask(shape)) for key, shape in wanted.items()]
    return Findings(segments=tuple(Segment(key=key, mask=mask, volume_ml=_ml(mask)) for key, mask in made))


def _ml(mask: NDArray[np.bool_]) -> float:
    return float(mask.sum()) * float(np.prod(SPACING)) / 1000


def one_nodule(source: Source) -> Findings:
    """Return the nodule as a detection."""
    mask = source.mask(NODULE)
    slices, rows, columns = (float(axis.mean()) for axis in np.nonzero(mask))
    found = Detection(
        key="nodule", mask=mask, centre_mm=source.patient(slices, rows, columns), diameter_mm=21.6,
        volume_ml=_ml(mask), score=0.87, site="right-lung",
    )  # fmt: skip
    return Findings(detections=(found,))


def likelihood(source: Source) -> Findings:
    """Return a map that is high in the right lung, lower in the left, and nothing elsewhere."""
    values = 0.9 * source.mask(RIGHT_LUNG) + 0.4 * source.mask(LEFT_LUNG)
    return Findings(maps=(ValueMap(key="likelihood", values=values.astype(np.float32)),))


def pdf() -> bytes:
    """Return a printed page of one red square (PDF 1.4), left of the middle and near the top."""
    draw = b"0.94 0.24 0.2 rg 60 560 180 180 re f"
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<<>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(draw), draw),
    )  # fmt: skip
    made, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, start=1):
        places.append(len(made))
        made += b"%d 0 obj%s endobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer<</Size 5/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(made)
    return made + b"xref\n0 5\n0000000000 65535 f \n" + table + end
