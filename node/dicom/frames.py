"""Multi-frame images as slices: each frame with a header of its own, as if it had been sent alone.

Enhanced CT, MR and PET, Legacy Converted Enhanced images, and others whose functional groups say where each frame
lies (PS3.3 C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import UID

from node.errors import InputInvalid

#: Multi-frame objects that are no acquired images.
_NO_SOURCE = frozenset({
    "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7",  # Segmentation, Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.481.2",  # Parametric Map, RT Dose
})  # fmt: skip
#: Functional groups (PS3.3 C.7.6.16.2) whose attributes a single-frame image has at its top level.
_GROUPS = (
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence",
    "FrameVOILUTSequence", "FrameContentSequence", "FrameAnatomySequence",
)  # fmt: skip
_TYPES = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence")
_OWN = frozenset({"SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames", "PixelData"})


def is_multiframe(dataset: Dataset) -> bool:
    """Return whether *dataset* holds frames rather than one image."""
    return "PerFrameFunctionalGroupsSequence" in dataset or _count(dataset) > 1


def _count(dataset: Dataset) -> int:
    try:
        return int(dataset.get("NumberOfFrames") or 1)
    except (ValueError, TypeError) as why:
        raise InputInvalid("its number of frames is no number") from why


def frame_headers(dataset: Dataset) -> list[Dataset]:
    """Return one header for each frame of a multi-frame image, in the order of its frames.

    Raises InputInvalid where the frames do not say where they lie, or are no acquired images.
    """
    kind = UID(str(dataset.get("SOPClassUID") or ""))
    if kind in _NO_SOURCE:
        raise InputInvalid(f"it is a {kind.name.removesuffix(' Storage')}, not an acquired image")
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    count = _count(dataset)
    if not groups:
        raise InputInvalid("its frames do not say where they lie: have the original images sent")
    if len(groups) != count:
        raise InputInvalid(f"it has {count} frames, but describes {len(groups)}")
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    basis = Dataset()
    for element in dataset:
        if element.keyword not in _OWN:
            basis.add(element)
    return [_flat(basis, dataset, shared, group) for group in groups]


def _flat(basis: Dataset, whole: Dataset, shared: Dataset, own: Dataset) -> Dataset:
    header = Dataset()
    header.update(basis)  # the elements are shared, the set of them is not
    if hasattr(whole, "file_meta"):
        header.file_meta = whole.file_meta
    for macro in (shared, own):  # what a frame says of itself wins
        for name in _GROUPS:
            for element in (macro.get(name) or [Dataset()])[0]:
                header.add(element)
        for name in _TYPES:
            if macro.get(name) and macro[name][0].get("FrameType"):
                header.ImageType = macro[name][0].FrameType
    return header


def frames_with_pixels(dataset: Dataset, numbers: list[int]) -> Iterator[Dataset]:
    """Yield a single-frame image for each of *numbers* (from 1) of a multi-frame image read with its pixels.

    Raises InputInvalid where the pixel data holds fewer frames than the header says.
    """
    headers = frame_headers(dataset)
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    size = int(dataset.Rows) * int(dataset.Columns) * (int(dataset.BitsAllocated) // 8)
    data = dataset.get("PixelData") or b""
    for number in numbers:
        image = headers[number - 1]
        try:
            raw = (
                encapsulate([get_frame(data, number - 1, number_of_frames=len(headers))])
                if syntax.is_encapsulated
                else data[(number - 1) * size : number * size]
            )
        except (ValueError, EOFError, IndexError) as why:
            raise InputInvalid(f"frame {number} is not in the pixel data") from why
        if not syntax.is_encapsulated and len(raw) < size:
            raise InputInvalid(f"frame {number} is not in the pixel data")
        image.PixelData = raw
        image["PixelData"].VR = "OB" if int(dataset.BitsAllocated) <= 8 or syntax.is_encapsulated else "OW"
        yield image
