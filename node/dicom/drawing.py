"""A Segmentation of anybody's, read back as planes in the patient, and how much two of its segments share.

Only bits are unpacked, frame by frame: no codec but RLE's, and never a whole volume in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import RLELosslessDecoder
from pydicom.sr.coding import Code
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from node.dicom.geometry import GeometryError, same_orientation, slice_normal

_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
_SAME_PLACE = 0.01  # mm: voxels that lie so near are the same voxel
_PARALLEL = 1e-6  # cosine short of 1 up to which planes lie parallel: 0.08 degrees
_SAME_SPACING = 1e-4  # mm


class Unreadable(ValueError):
    """The object cannot be compared; the message is the reason, for people, without any value of the object."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SegmentInfo:
    """What a Segmentation says of one of its segments."""

    number: int
    label: str
    tracking_uid: str
    type: Code  # segmented property type, without its meaning
    laterality: str  # code value, "" where it says none
    automatic: bool
    algorithm: str

    def same_structure(self, other: SegmentInfo) -> bool:
        """Return whether both are the same structure on the same side; SNOMED's old codes equal its new ones."""
        return bool(self.type == other.type) and self.laterality == other.laterality


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plane:
    """The frames of one segment that lie in one place."""

    height: float  # mm along the slice normal
    corner: NDArray[np.float64]  # (L, P, S) of the first pixel, mm
    frames: tuple[int, ...]  # from 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """How two segments compare."""

    ours_ml: float
    theirs_ml: float
    both_ml: float
    same: bool  # every voxel of one is a voxel of the other

    @property
    def dice(self) -> float:
        """2 |both| / (|ours| + |theirs|), 0 to 1; 1 exactly where they are the same."""
        total = self.ours_ml + self.theirs_ml
        return 1.0 if self.same else min(1.0, 2 * self.both_ml / total) if total else 0.0


def segment_infos(dataset: Dataset) -> tuple[SegmentInfo, ...]:
    """Return what the segments of a Segmentation are; the background of a label map (number 0) is none."""
    return tuple(_info(item) for item in dataset.get("SegmentSequence") or () if int(item.SegmentNumber) > 0)


def _info(item: Dataset) -> SegmentInfo:
    types = item.get("SegmentedPropertyTypeCodeSequence") or [Dataset()]
    modifiers = list(types[0].get("SegmentedPropertyTypeModifierCodeSequence") or ())
    for region in item.get("AnatomicRegionSequence") or ():
        modifiers += region.get("AnatomicRegionModifierSequence") or ()
    sides = [code.value for code in map(_code, modifiers) if code in _SIDES]
    return SegmentInfo(
        number=int(item.SegmentNumber),
        label=printable(str(item.get("SegmentLabel") or "")),
        tracking_uid=str(item.get("TrackingUID") or ""),
        type=_code(types[0]),
        laterality=_SIDE_VALUES[sides[0]] if sides else "",
        automatic=item.get("SegmentAlgorithmType") == "AUTOMATIC",
        algorithm=str(item.get("SegmentAlgorithmName") or ""),
    )


#: CID 244 in SNOMED CT, and as SNOMED RT had it.
_SIDE_VALUES = {"7771000": "left", "24028007": "right", "51440002": "both", "G-A101": "left", "G-A100": "right",
                "G-A102": "both"}  # fmt: skip
_SIDES = tuple(Code(value, "SRT" if value.startswith("G-") else "SCT", "") for value in _SIDE_VALUES)


def _code(item: Dataset) -> Code:
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or ""
    return Code(str(value), str(item.get("CodingSchemeDesignator") or ""), "")


def printable(text: str) -> str:
    """Return *text* as one line of at most 64 characters."""
    return "".join(c for c in text if c.isprintable())[:64].strip()


class Drawing:
    """One Segmentation with its pixels: BINARY, FRACTIONAL (drawn where at least half) or LABELMAP.

    Raises Unreadable where it does not say where its frames lie, or is encoded as nobody here reads it.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._pixels = _Pixels(dataset)
        self.frame_of_reference = str(dataset.get("FrameOfReferenceUID") or "")
        self.segments = segment_infos(dataset)
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
        if len(groups) != self._pixels.count:
            raise Unreadable("it does not describe each of its frames")
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        self.orientation = _one_orientation(shared, groups)
        measures = [_group("PixelMeasuresSequence", group, shared) for group in groups] or [Dataset()]
        self.spacing = _one_spacing(measures)  # (between rows, between columns) mm
        self._corners = [_corner(shared, group) for group in groups]
        self._numbers = [_segment_of(shared, group) for group in groups] if not self._pixels.labels else []
        self.normal = _normal(self.orientation)
        self.slice_spacing = _slice_spacing(measures[0], [float(c @ self.normal) for c in self._corners])

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel: slices reach half way to their neighbours, whatever their thickness says."""
        return self.spacing[0] * self.spacing[1] * self.slice_spacing / 1000.0

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._pixels.rows, self._pixels.columns

    def planes(self, number: int) -> list[Plane]:
        """Return where frames of segment *number* lie, sorted along the slice normal."""
        mine = [f for f in range(len(self._corners)) if self._pixels.labels or self._numbers[f] == number]
        mine.sort(key=lambda frame: float(self._corners[frame] @ self.normal))
        found: list[Plane] = []
        for frame in mine:
            corner = self._corners[frame]
            height = float(corner @ self.normal)
            if found and abs(found[-1].height - height) <= _SAME_PLACE:
                last = found.pop()
                if np.linalg.norm(last.corner - corner) > _SAME_PLACE:
                    raise Unreadable("frames of one segment lie beside each other: it is tiled")
                found.append(Plane(height=last.height, corner=last.corner, frames=(*last.frames, frame)))
            else:
                found.append(Plane(height=height, corner=corner, frames=(frame,)))
        return found

    def mask(self, number: int, plane: Plane) -> NDArray[np.bool_]:
        """Return where segment *number* is drawn on *plane*: (rows, columns)."""
        mask = self._pixels.mask(plane.frames[0], number)
        for frame in plane.frames[1:]:
            mask = mask | self._pixels.mask(frame, number)
        return mask

    def volume_ml(self, number: int) -> float:
        """Return the volume of segment *number*."""
        return self.voxel_ml * sum(int(np.count_nonzero(self.mask(number, plane))) for plane in self.planes(number))


def share(ours: Drawing, our_number: int, theirs: Drawing, their_number: int) -> Shared:
    """Return how two segments compare, each voxel of ours looked up where it lies in the patient.

    Slices may come in any order, be cropped, flipped or turned in their plane; voxels of another size are looked up
    at the nearest one. Raises Unreadable where the two do not lie in parallel planes of one frame of reference.
    """
    check_comparable(ours, theirs)
    their_planes = theirs.planes(their_number)
    heights = np.array([float(plane.corner @ ours.normal) for plane in their_planes])
    in_ours = in_both = 0
    aligned = _same_voxels(ours, theirs)
    for plane in ours.planes(our_number):
        mask = ours.mask(our_number, plane)
        in_ours += int(np.count_nonzero(mask))
        near = _nearest(heights, plane.height, theirs.slice_spacing)
        if near is not None:
            other = their_planes[near]
            lookup = _Lookup(ours, plane.corner, theirs, other.corner)
            in_both += lookup.count(mask, theirs.mask(their_number, other))
            aligned = aligned and lookup.exact and abs(heights[near] - plane.height) <= _SAME_PLACE
    in_theirs = sum(int(np.count_nonzero(theirs.mask(their_number, plane))) for plane in their_planes)
    return Shared(
        ours_ml=in_ours * ours.voxel_ml, theirs_ml=in_theirs * theirs.voxel_ml, both_ml=in_both * ours.voxel_ml,
        same=aligned and in_ours == in_theirs == in_both,
    )  # fmt: skip


def check_comparable(ours: Drawing, theirs: Drawing) -> None:
    """Raise Unreadable where voxels of the two cannot be found in each other."""
    if not theirs.frame_of_reference:
        raise Unreadable("it does not say its frame of reference")
    if ours.frame_of_reference != theirs.frame_of_reference:
        raise Unreadable("it is drawn in another frame of reference than the result")
    if abs(float(ours.normal @ theirs.normal)) < 1 - _PARALLEL:
        raise Unreadable("it is drawn on planes of another orientation than the result")


def _same_voxels(ours: Drawing, theirs: Drawing) -> bool:
    pairs = zip(sorted(ours.spacing), sorted(theirs.spacing), strict=True)
    in_plane = all(abs(a - b) <= _SAME_SPACING for a, b in pairs)
    return in_plane and abs(ours.slice_spacing - theirs.slice_spacing) <= _SAME_PLACE


def _nearest(heights: NDArray[np.float64], height: float, spacing: float) -> int | None:
    """Return which of *heights* a voxel at *height* belongs to: the nearest, at most half a slice away."""
    if not len(heights):
        return None
    place = int(np.argmin(np.abs(heights - height)))
    return place if abs(heights[place] - height) <= spacing / 2 + 1e-6 else None


class _Lookup:
    """From pixels of one plane to the pixels of another that lie nearest: an affine map within the plane."""

    def __init__(
        self, ours: Drawing, corner: NDArray[np.float64], theirs: Drawing, their_corner: NDArray[np.float64]
    ) -> None:
        steps = _steps(ours)  # mm for one row, one column of ours
        axes = _steps(theirs) / np.array(theirs.spacing)[:, None] ** 2  # pixels of theirs for one mm
        self._turn = axes @ steps.T  # (their row, their column) for (row, column)
        self._shift = axes @ (corner - their_corner)
        off = np.abs(self._turn - np.rint(self._turn)) * max(ours.shape), np.abs(self._shift - np.rint(self._shift))
        nearest = max(float(off[0].max()), float(off[1].max())) * max(theirs.spacing)
        self.exact = nearest <= _SAME_PLACE  # every pixel of ours is a pixel of theirs
        self._shape = theirs.shape
        self._plain = (
            self.exact and ours.shape == theirs.shape and bool((np.rint(self._turn) == np.eye(2)).all())
            and not np.rint(self._shift).any()
        )  # fmt: skip

    def count(self, mask: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> int:
        """Return how many pixels of *mask* (rows, columns) lie on pixels of *theirs*."""
        if self._plain:
            return int(np.count_nonzero(mask & theirs))
        drawn = np.stack(np.nonzero(mask))  # (row or column, pixel)
        places = np.rint(self._turn @ drawn + self._shift[:, None]).astype(np.int64)
        inside = ((places >= 0) & (places < np.array(self._shape)[:, None])).all(axis=0)
        rows, columns = places[:, inside]
        return int(np.count_nonzero(theirs[rows, columns]))


def _steps(drawing: Drawing) -> NDArray[np.float64]:
    """(2, 3): the way in mm (L, P, S) to the next row, and to the next column (PS3.3 C.7.6.2.1.1)."""
    down, right = np.array(drawing.orientation[3:]), np.array(drawing.orientation[:3])
    return np.stack([down * drawing.spacing[0], right * drawing.spacing[1]])


class _Pixels:
    """Frames as masks, unpacked when they are asked for."""

    def __init__(self, dataset: Dataset) -> None:
        self.count, self.rows, self.columns = (
            int(dataset.get(keyword) or 0) for keyword in ("NumberOfFrames", "Rows", "Columns")
        )
        self.labels = dataset.get("SegmentationType") == "LABELMAP"
        self._fraction = int(dataset.get("MaximumFractionalValue") or 255) / 2
        self._binary = dataset.get("SegmentationType") == "BINARY"
        self._dataset, self._bits = dataset, int(dataset.get("BitsAllocated") or 0)
        syntax = dataset.file_meta.TransferSyntaxUID if hasattr(dataset, "file_meta") else ExplicitVRLittleEndian
        if self._bits not in ((1, 8) if self._binary else (8, 16)):
            raise Unreadable(f"it has {self._bits} bits in a pixel")
        self._rle = syntax == RLELossless and self._bits > 1
        if not self._rle and syntax not in _NATIVE:
            raise Unreadable("it is compressed in a way that is not read here: have it sent uncompressed")
        self._data = bytes(dataset.get("PixelData") or b"")
        wanted = (self.count * self.rows * self.columns * self._bits + 7) // 8
        short = not self._rle and len(self._data) < wanted
        if short or min(self.rows, self.columns) < 1 or self.count < 0:
            raise Unreadable("its pixel data is shorter than its frames")

    def mask(self, frame: int, number: int) -> NDArray[np.bool_]:
        """Return where *frame* shows segment *number*: (rows, columns)."""
        values = self._frame(frame)
        if self.labels:
            return np.asarray(values == number)
        return np.asarray(values != 0 if self._binary else values >= self._fraction)

    def _frame(self, frame: int) -> NDArray[np.uint8 | np.uint16]:
        size = self.rows * self.columns
        if self._rle:
            array: NDArray[np.uint8 | np.uint16] = RLELosslessDecoder.as_array(self._dataset, index=frame)[0]
            return array
        if self._bits > 1:
            kind = np.dtype("<u2" if self._bits == 16 else "u1")
            flat = np.frombuffer(self._data, kind, count=size, offset=frame * size * kind.itemsize)
            return flat.reshape(self.rows, self.columns)
        first = frame * size  # frames of bits follow each other without a gap (PS3.5 8.2)
        raw = np.frombuffer(self._data, np.uint8, count=(first % 8 + size + 7) // 8, offset=first // 8)
        flat = np.unpackbits(raw, bitorder="little")[first % 8 : first % 8 + size]
        return flat.reshape(self.rows, self.columns)


def _group(keyword: str, frame: Dataset, shared: Dataset) -> Dataset:
    """Return the functional group of a frame, its own or that of all (PS3.3 C.7.6.16)."""
    items = frame.get(keyword) or shared.get(keyword) or ()
    return items[0] if items else Dataset()


def _corner(shared: Dataset, frame: Dataset) -> NDArray[np.float64]:
    position = _numbers(_group("PlanePositionSequence", frame, shared).get("ImagePositionPatient"), 3)
    if not position:
        raise Unreadable("its frames do not say where in the patient they lie")
    return np.array(position, dtype=np.float64)


def _segment_of(shared: Dataset, frame: Dataset) -> int:
    return int(_group("SegmentIdentificationSequence", frame, shared).get("ReferencedSegmentNumber") or 0)


def _one_orientation(shared: Dataset, groups: Sequence[Dataset]) -> tuple[float, ...]:
    found = list(_orientations(shared, groups))
    if not found or not found[0]:
        raise Unreadable("its frames do not say how they lie in the patient")
    if not all(same_orientation(found[0], one) for one in found[1:]):
        raise Unreadable("its frames do not lie parallel to each other")
    return found[0]


def _orientations(shared: Dataset, groups: Sequence[Dataset]) -> Iterator[tuple[float, ...]]:
    for group in groups or [Dataset()]:
        yield _numbers(_group("PlaneOrientationSequence", group, shared).get("ImageOrientationPatient"), 6)


def _one_spacing(measures: Sequence[Dataset]) -> tuple[float, float]:
    found = [_numbers(item.get("PixelSpacing"), 2) for item in measures]
    if not found[0] or min(found[0]) <= 0:
        raise Unreadable("it does not say its pixel spacing")
    if any(not one or not np.allclose(one, found[0], rtol=0, atol=_SAME_SPACING) for one in found):
        raise Unreadable("its frames have pixels of different sizes")
    return found[0][0], found[0][1]


def _slice_spacing(measures: Dataset, heights: Sequence[float]) -> float:
    """Return the distance of slices: as stated or as the nearest frames show, the lesser; else their thickness.

    Frames without a voxel may be left out, so that frames alone show too much; some writers state the thickness of
    overlapping slices, which is too much as well.
    """
    stated = abs(float(measures.get("SpacingBetweenSlices") or 0))
    steps = np.diff(np.unique(np.round(heights, 3)))
    steps = steps[steps > _SAME_PLACE]
    least = float(steps.min()) if len(steps) else 0.0
    differ = stated and least and stated - least > _SAME_PLACE
    spacing = least if differ else stated or least or float(measures.get("SliceThickness") or 0)
    if not spacing > 0 or not np.isfinite(spacing):
        raise Unreadable("it does not say how far its slices lie apart")
    return spacing


def _normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    try:
        return slice_normal(orientation)
    except GeometryError as why:
        raise Unreadable("its orientation is no pair of perpendicular directions") from why


def _numbers(value: object, count: int) -> tuple[float, ...]:
    """Return *count* finite numbers, or none."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != count:
        return ()
    numbers = tuple(float(one) for one in value)
    return numbers if np.isfinite(numbers).all() else ()
