"""Results of ours as a radiologist's viewer finds them, and the objects that she makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from models.contract import Findings
from node.db import verdicts
from node.dicom.codes import concept
from node.dicom.encode import ResultObject, encode
from node.domain.job import Job
from node.domain.study import StudyState
from node.domain.verdict import Verdict
from node.testing import part10, synthetic_ct
from tests.unit.node.conftest import World
from tests.unit.node.dicom.conftest import LUNGS, context_of, two_lungs

STUDY = "2.25.4711"
RIGHT = 4 * 9 * 8 + 1  # voxels of the right lung of two_lungs
LEFT = 4 * 10 * 7
VOXEL_ML = 2.5 * 0.7 * 0.9 / 1000

Masks = dict[str, NDArray[np.bool_]]


def a_chest() -> tuple[Dataset, ...]:
    """Return a series that two_lungs fits into."""
    return tuple(synthetic_ct(slices=7, rows=20, columns=24))


def written(dataset: Dataset) -> Dataset:
    """Return *dataset* as a file holds it: nothing in it is shared with another one."""
    return dcmread(BytesIO(part10(dataset)))


@cache
def _lungs() -> tuple[ResultObject, ...]:
    """The results of two_lungs: the same every time, so they are encoded once."""
    sources = a_chest()
    return encode(two_lungs(sources), context_of(sources))


class Reading:
    """A study whose lungs were segmented and delivered, in a world of tables and a store."""

    def __init__(self, world: World, findings: Callable[[tuple[Dataset, ...]], Findings] = two_lungs) -> None:
        self.world, self.sources = world, a_chest()
        world.keep(*self.sources)
        world.settle()
        self.objects = self.publish(findings)
        self.seg = next((o.dataset for o in self.objects if o.role == "seg"), Dataset())
        self.sr = next(o.dataset for o in self.objects if o.role == "sr")

    def publish(self, findings: Callable[[tuple[Dataset, ...]], Findings] = two_lungs) -> tuple[ResultObject, ...]:
        """Run the job that waits: it finds what *findings* finds."""
        objects = _lungs() if findings is two_lungs else encode(findings(self.sources), context_of(self.sources))
        self.job: Job = self.world.start()
        files = [
            (str(o.role), str(o.dataset.SOPClassUID), str(o.dataset.SOPInstanceUID), part10(o.dataset)) for o in objects
        ]
        self.world.publish(self.job, files, ["pacs"])
        self.world.clock.advance(60)
        return objects

    def receive(self, *datasets: Dataset) -> list[Verdict]:
        """Let the PACS send objects, and the sweep look at them; return all verdicts, the newest first."""
        self.world.keep(*datasets, calling_ae="PACS")
        self.world.sweep().round()
        return self.verdicts()

    def receive_edit(self) -> list[Verdict]:
        """Let our Segmentation come back as a viewer saves it that changes nothing."""
        return self.receive(edited(self.seg))

    def verdicts(self) -> list[Verdict]:
        """Return all verdicts, the newest first."""
        with self.world.database.reading() as session:
            return verdicts.list_verdicts(session)

    def pending(self) -> int:
        """Return how many instances are still to be looked at."""
        with self.world.database.reading() as session:
            return verdicts.count_pending(session)

    def is_settled(self) -> bool:
        """Return whether the study stands as it stood before anything came back."""
        study = self.world.study(STUDY)
        return study.state is StudyState.SETTLED and study.revision == 1

    def masks(self) -> Masks:
        """Return what was found, by key."""
        return {segment.key: segment.mask.copy() for segment in two_lungs(self.sources).segments}


def edited(seg: Dataset, **changes: Any) -> Dataset:
    """Return a copy of *seg* under new UIDs: what a viewer saves that changes nothing else."""
    copy = written(seg)
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    copy.SeriesInstanceUID = generate_uid()
    for keyword, value in changes.items():
        setattr(copy, keyword, value)
    return copy


def draw(seg: Dataset, number: int, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Dataset:
    """Change the frames of one segment of a binary *seg* in place: *change* gets and gives (frame, row, column)."""
    size, count = seg.Rows * seg.Columns, int(seg.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: count * size]
    frames = bits.reshape(count, seg.Rows, seg.Columns).copy()
    groups = seg.PerFrameFunctionalGroupsSequence
    mine = [g.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number for g in groups]
    frames[mine] = change(frames[mine])
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    seg.PixelData = packed + b"\0" * (len(packed) % 2)
    return seg


def drawn_anew(
    sources: Sequence[Dataset], masks: Masks, *, algorithm: str = "MANUAL", label: str = "", tissue: bool = False,
    referring: Sequence[Dataset] = (), **changes: Any,
) -> Dataset:  # fmt: skip
    """Return a Segmentation of another writer: no word of ours in it, its segments in the order of *masks*.

    *tissue* writes no code but "Tissue", as some viewers do; *label* takes the place of the labels.
    """
    kinds = {kind.key: kind for kind in LUNGS}
    descriptions = []
    for number, key in enumerate(masks, start=1):
        kind = kinds[key.split("+")[0]]
        identification = None
        if algorithm != "MANUAL":
            identification = hd.AlgorithmIdentificationSequence(
                name=algorithm, family=codes.DCM.ArtificialIntelligence, version="1"
            )
        one = hd.seg.SegmentDescription(
            segment_number=number, segment_label=label or kind.label,
            segmented_property_category=codes.SCT.Tissue if tissue else concept(kind.category),
            segmented_property_type=codes.SCT.Tissue if tissue else concept(kind.type),
            algorithm_type="MANUAL" if algorithm == "MANUAL" else "AUTOMATIC", algorithm_identification=identification,
        )  # fmt: skip
        if not tissue and kind.laterality:
            side = [concept(kind.laterality)]
            one.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = side
        descriptions.append(one)
    made = hd.seg.Segmentation(
        source_images=[deepcopy(source) for source in sources],
        pixel_array=np.stack([mask.astype(np.uint8) for mask in masks.values()], axis=-1),
        segmentation_type="BINARY", segment_descriptions=descriptions, series_instance_uid=generate_uid(),
        series_number=70, sop_instance_uid=generate_uid(), instance_number=1, manufacturer="Other",
        manufacturer_model_name="Viewer", software_versions="1", device_serial_number="1",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )  # fmt: skip
    if referring:
        made.SourceImageSequence = [_reference(one) for one in referring]
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    return written(made)


def _reference(one: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    return item


def key_objects(objects: Sequence[Dataset], title: Any, *, reason: Any = None) -> Dataset:
    """Return a key object selection of *objects* under a title of CID 7010, perhaps with a coded reason."""
    content = hd.ko.KeyObjectSelection(document_title=title, referenced_objects=[written(one) for one in objects])
    made = hd.ko.KeyObjectSelectionDocument(
        evidence=[written(one) for one in objects], content=content, series_instance_uid=generate_uid(),
        series_number=90, sop_instance_uid=generate_uid(), instance_number=1, manufacturer="Other",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )  # fmt: skip
    if reason is not None:
        made.ContentSequence.append(
            hd.sr.CodeContentItem(
                codes.DCM.DocumentTitleModifier, reason, relationship_type=hd.sr.RelationshipTypeValues.HAS_CONCEPT_MOD
            )
        )
    return written(made)


def report_over(
    sr: Dataset, *, verified: bool = True, successor: bool = True, change: Callable[[Dataset], None] | None = None
) -> Dataset:
    """Return a report that takes over what *sr* says, changed by *change*, as a reporting station saves it."""
    made = edited(sr)
    made.VerificationFlag = "VERIFIED" if verified else "UNVERIFIED"
    if verified:
        observer = Dataset()
        observer.VerifyingOrganization, observer.VerificationDateTime = "Hospital", "20260304120000"
        observer.VerifyingObserverName, observer.VerifyingObserverIdentificationCodeSequence = "Canary^Reader", []
        made.VerifyingObserverSequence = [observer]
    if successor:
        series, study = Dataset(), Dataset()
        series.SeriesInstanceUID, series.ReferencedSOPSequence = sr.SeriesInstanceUID, [_reference(sr)]
        study.StudyInstanceUID, study.ReferencedSeriesSequence = sr.StudyInstanceUID, [series]
        made.PredecessorDocumentsSequence = [study]
    if change is not None:
        change(made)
    return made


def groups(report: Dataset) -> list[tuple[Dataset, Dataset]]:
    """Return each measurement group of a report with the container that it stands in."""
    containers = [item for item in report.ContentSequence if item.ValueType == "CONTAINER"]
    return [(group, c) for c in containers for group in c.ContentSequence if group.ValueType == "CONTAINER"]


def tracking_uid(group: Dataset) -> str:
    """Return the Tracking UID of a measurement group."""
    return next(str(i.UID) for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "112040")


def say_absent(group: Dataset) -> None:
    """Put (Finding, Absent) into a measurement group."""
    group.ContentSequence.append(
        hd.sr.CodeContentItem(
            codes.DCM.Finding, CodedConcept("272519000", "SCT", "Absent"),
            relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
        )
    )  # fmt: skip
