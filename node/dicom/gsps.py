"""Outlines as a Grayscale Softcopy Presentation State: for viewers that draw those and no segmentations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, GrayscaleSoftcopyPresentationStateStorage

from node.dicom import codes
from node.dicom.context import DISCLAIMER, Region, ResultContext
from node.dicom.identity import check_source, equip, say_side, sop_class, stamp
from node.dicom.outline import largest_slice, outline
from node.domain.result import ResultRole

_SIZE = ("Rows", "Columns")


def encode_gsps(drawn: Sequence[Region], context: ResultContext) -> Dataset:
    """Return the outlines of *drawn* over their sources (PS3.3 A.33.1): of detections on each slice, of organs on one.

    Each kind has a layer in its colour; the name stands where a region is largest.
    """
    for source in context.sources:
        check_source(source, _SIZE)
    state = Dataset()
    state.file_meta = FileMetaDataset()
    state.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    state.SOPClassUID = GrayscaleSoftcopyPresentationStateStorage
    state.SOPInstanceUID = context.uid(ResultRole.GSPS, "instance")
    state.SeriesInstanceUID = context.uid(ResultRole.GSPS, "series")
    state.SeriesNumber, state.InstanceNumber = context.series_number(ResultRole.GSPS), 1
    state.Modality = "PR"
    state.ContentLabel, state.ContentDescription = "AI_RESULT", DISCLAIMER
    state.ContentCreatorName = f"{codes.plain(context.node.model_name, 62)}^"
    kinds = list({region.kind.key: region.kind for region in drawn}.values())
    layers = {kind.key: f"AI{place}" for place, kind in enumerate(kinds, start=1)}
    state.GraphicLayerSequence = [
        _layer(place, layers[kind.key], kind.label, kind.colour) for place, kind in enumerate(kinds, start=1)
    ]
    state.GraphicAnnotationSequence = [
        _annotation(region, place, layers[region.kind.key], context) for region in drawn for place in _slices(region)
    ]
    state.ReferencedSeriesSequence = [_series(range(len(context.sources)), context)]
    state.DisplayedAreaSelectionSequence = [_area(context)]
    state.SoftcopyVOILUTSequence = list(_window(context))
    if not state.SoftcopyVOILUTSequence:
        del state.SoftcopyVOILUTSequence
    state.PresentationLUTShape = "IDENTITY"
    equip(state, context)
    stamp(state, context)
    say_side(state)
    state.PresentationCreationDate, state.PresentationCreationTime = state.ContentDate, state.ContentTime
    del state.ContentDate, state.ContentTime
    return state


def _slices(region: Region) -> list[int]:
    if region.detection is None:
        return [largest_slice(region.mask)]
    return [int(place) for place in np.flatnonzero(region.mask.any(axis=(1, 2)))]


def _layer(place: int, name: str, label: str, colour: tuple[int, int, int]) -> Dataset:
    layer = Dataset()
    layer.GraphicLayer, layer.GraphicLayerOrder = name, place
    layer.GraphicLayerDescription = codes.plain(label, 64)
    layer.GraphicLayerRecommendedDisplayCIELabValue = [int(v) for v in codes.cielab(colour).value]
    return layer


def _annotation(region: Region, place: int, layer: str, context: ResultContext) -> Dataset:
    """One region's outline on one image, with its name where it is largest (PS3.3 C.10.5)."""
    points = outline(region.mask[place])
    line = Dataset()
    line.GraphicAnnotationUnits, line.GraphicDimensions, line.GraphicType = "PIXEL", 2, "POLYLINE"
    # Here the first pixel's top left corner is (0, 0) and pixels are counted from 1 in displayed areas only: the
    # coordinates are those of an SCOORD (PS3.3 C.10.5.1.2).
    line.NumberOfGraphicPoints, line.GraphicData = len(points), [float(v) for v in points.ravel()]
    line.GraphicFilled = "N"
    item = Dataset()
    item.GraphicLayer = layer
    item.ReferencedImageSequence = [_image(place, context)]
    item.GraphicObjectSequence = [line]
    if place == largest_slice(region.mask):
        text = Dataset()
        text.AnchorPointAnnotationUnits = "PIXEL"
        text.AnchorPoint = [float(points[:, 0].max()), float(points[:, 1].min())]
        text.AnchorPointVisibility = "N"
        text.UnformattedTextValue = f"AI: {region.tracking_id}"
        item.TextObjectSequence = [text]
    return item


def _image(place: int, context: ResultContext) -> Dataset:
    source = context.sources[place]
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class(source), source.SOPInstanceUID
    if context.frames:
        item.ReferencedFrameNumber = context.frames[place]
    return item


def _series(places: Sequence[int], context: ResultContext) -> Dataset:
    """All images that the state is about; a multi-frame one once and whole."""
    series = Dataset()
    series.SeriesInstanceUID = context.sources[0].SeriesInstanceUID
    series.ReferencedImageSequence = []
    for place in {str(context.sources[place].SOPInstanceUID): place for place in places}.values():
        item = _image(place, context)
        if "ReferencedFrameNumber" in item:
            del item.ReferencedFrameNumber
        series.ReferencedImageSequence.append(item)
    return series


def _area(context: ResultContext) -> Dataset:
    """The whole image, as large as it fits."""
    source = context.sources[0]
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [int(source.Columns), int(source.Rows)]
    area.PresentationSizeMode = "SCALE TO FIT"
    if source.get("PixelSpacing"):
        area.PresentationPixelSpacing = source.PixelSpacing
    else:
        area.PresentationPixelAspectRatio = [1, 1]
    return area


def _window(context: ResultContext) -> Iterator[Dataset]:
    """The source's own window."""
    source = context.sources[0]
    if source.get("WindowCenter") not in (None, "") and source.get("WindowWidth") not in (None, ""):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = _first(source.WindowCenter), _first(source.WindowWidth)
        yield window


def _first(value: object) -> float:
    return float(value[0]) if hasattr(value, "__getitem__") and not isinstance(value, str) else float(value)  # type: ignore[arg-type]
