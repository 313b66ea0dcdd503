"""The radiologist's verdict: what comes back is matched to its job and judged, once, whatever dies in between."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from sqlalchemy import select, update

from models import catalogue
from models.contract import Findings, Segment
from node import verdicts as service
from node.db import verdicts
from node.db.tables import InstanceRow, VerdictPendingRow
from node.domain.verdict import Change, MatchedBy, VerdictKind
from node.errors import StoreFull
from node.intake import Intake
from node.testing import part10, synthetic_ct
from tests.unit.node.conftest import World
from tests.unit.node.dicom.test_drawing import dcmqi_seg
from tests.verdict_scene import (
    LEFT,
    RIGHT,
    STUDY,
    VOXEL_ML,
    Reading,
    draw,
    drawn_anew,
    edited,
    groups,
    key_objects,
    report_over,
    say_absent,
    tracking_uid,
    written,
)

TOTAL = RIGHT + LEFT


@pytest.fixture
def reading(sqlite_world: World) -> Reading:
    """A study with delivered lungs."""
    return Reading(sqlite_world)


def nothing_found(sources: tuple[Dataset, ...]) -> Findings:
    """A run that drew nothing."""
    return Findings(segments=(Segment(key="left-lung", mask=np.zeros((7, 20, 24), np.bool_), volume_ml=0.0),))


# Segmentations


def test_our_segmentation_saved_unchanged_is_accepted(world: World) -> None:
    """On both databases: one verdict, one event on the job, and the study stays as it was."""
    reading = Reading(world)
    (verdict,) = reading.receive(edited(reading.seg))
    assert (verdict.kind, verdict.matched_by) == (VerdictKind.ACCEPTED, MatchedBy.TRACKING)
    assert (verdict.dice, verdict.volume_change, verdict.calling_ae) == (1.0, 0.0, "PACS")
    assert (verdict.job_id, verdict.model, verdict.model_digest) == (
        reading.job.id, reading.job.model, reading.job.model_digest
    )  # fmt: skip
    assert [event.what for event in world.story(job_id=reading.job.id)][-1] == "verdict accepted"
    assert reading.pending() == 0 and reading.is_settled()
    assert world.settle() == []


def test_an_eroded_segment_is_corrected_with_the_numbers_that_counting_gives(reading: Reading) -> None:
    """One row of the right lung is gone: 32 of 289 voxels."""

    def erode(frames: Any) -> Any:
        frames[:, 3] = 0
        return frames

    (verdict,) = reading.receive(draw(edited(reading.seg), 1, erode))
    kept = RIGHT - 32
    assert verdict.kind is VerdictKind.CORRECTED
    assert verdict.dice == pytest.approx(2 * (kept + LEFT) / (TOTAL + kept + LEFT))
    assert verdict.volume_change == pytest.approx(100 * -32 / TOTAL)
    right, left = verdict.detail["segments"]
    assert (right["change"], left["change"], right["paired_by"]) == (Change.CHANGED, Change.SAME, "tracking identifier")
    assert right["dice"] == pytest.approx(2 * kept / (kept + RIGHT)) and left["dice"] == 1.0
    assert right["volume_ml_ours"] == pytest.approx(RIGHT * VOXEL_ML)
    assert right["volume_ml_theirs"] == pytest.approx(kept * VOXEL_ML)


def test_removed_and_added_segments_are_named(reading: Reading) -> None:
    """The left lung taken out, another one of the same kind drawn elsewhere: no pair is made of the two."""
    masks = reading.masks()
    elsewhere = np.zeros_like(masks["left-lung"])
    elsewhere[0, 0:3, 20:23] = True
    seg = drawn_anew(reading.sources, {"right-lung": masks["right-lung"], "left-lung": elsewhere}, label="x")
    (verdict,) = reading.receive(seg)
    changes = {(one["label"], one["change"]) for one in verdict.detail["segments"]}
    assert changes == {("Right lung", "same"), ("Left lung", "removed"), ("x", "added")}
    assert verdict.dice == pytest.approx(2 * RIGHT / (TOTAL + RIGHT + 9))
    assert verdict.reason == "of 3 segments 1 removed, 1 added"


def test_an_erased_segment_that_is_still_listed_is_removed(reading: Reading) -> None:
    """Its frames are there and empty."""
    (verdict,) = reading.receive(draw(edited(reading.seg), 2, np.zeros_like))
    assert [one["change"] for one in verdict.detail["segments"]] == ["same", "removed"]
    assert verdict.dice == pytest.approx(2 * RIGHT / (TOTAL + RIGHT))


def test_another_name_for_the_same_voxels_is_a_correction(reading: Reading) -> None:
    """The lung that is called liver: equal voxels, another structure."""
    seg = edited(reading.seg)
    kind = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    kind.CodeValue, kind.CodeMeaning = "10200004", "Liver"
    (verdict,) = reading.receive(seg)
    assert (verdict.kind, verdict.dice) == (VerdictKind.CORRECTED, 1.0)
    assert "1 given another name" in verdict.reason


def test_slicer_keeps_no_word_of_ours_and_is_matched_by_structure(reading: Reading) -> None:
    """Other order, no references, no tracking: same series, same structure, same side."""
    masks = reading.masks()
    grown = masks["left-lung"].copy()
    grown[6] = grown[5]
    seg = drawn_anew(reading.sources, {"left-lung": grown, "right-lung": masks["right-lung"]})
    (verdict,) = reading.receive(seg)
    assert (verdict.kind, verdict.matched_by) == (VerdictKind.CORRECTED, MatchedBy.STRUCTURE)
    more = LEFT + 70
    assert verdict.dice == pytest.approx(2 * TOTAL / (TOTAL + RIGHT + more))
    assert verdict.volume_change == pytest.approx(100 * 70 / TOTAL)


def test_what_dcmqi_writes_of_our_own_voxels_is_accepted(reading: Reading, tmp_path: Path) -> None:
    """A whole foreign way: our masks through NIfTI and another library's Segmentation, and to the voxel the same."""
    masks = reading.masks()
    seg = dcmqi_seg(reading.sources, {1: masks["left-lung"], 2: masks["right-lung"]}, tmp_path)
    (verdict,) = reading.receive(seg)
    assert (verdict.kind, verdict.matched_by, verdict.dice) == (VerdictKind.ACCEPTED, MatchedBy.STRUCTURE, 1.0)


def test_a_viewer_that_keeps_labels_but_no_codes_is_matched_by_structure(reading: Reading) -> None:
    """OHIF writes "Tissue" and the label."""
    (verdict,) = reading.receive(drawn_anew(reading.sources, reading.masks(), tissue=True))
    assert (verdict.kind, verdict.matched_by) == (VerdictKind.ACCEPTED, MatchedBy.STRUCTURE)


def test_a_segmentation_that_names_ours_is_matched_by_reference(reading: Reading) -> None:
    """Whatever else it keeps."""
    seg = drawn_anew(reading.sources, reading.masks(), label="roi", tissue=True, referring=[reading.seg])
    (verdict,) = reading.receive(seg)
    assert verdict.matched_by is MatchedBy.REFERENCE
    assert [one["paired_by"] for one in verdict.detail["segments"]] == ["overlap", "overlap"]


def test_what_another_program_drew_by_itself_is_no_verdict(reading: Reading) -> None:
    """A second vendor's lungs on the same series: no person looked at ours."""
    assert reading.receive(drawn_anew(reading.sources, reading.masks(), algorithm="other-lungs")) == []
    assert reading.pending() == 0


def test_a_viewer_that_keeps_the_algorithms_name_is_a_person_all_the_same(reading: Reading) -> None:
    """Slicer keeps AUTOMATIC and our name of what it loaded, and no tracking."""
    (verdict,) = reading.receive(drawn_anew(reading.sources, reading.masks(), algorithm="ct-lungs"))
    assert verdict.matched_by is MatchedBy.STRUCTURE


def test_an_edit_that_keeps_our_manufacturer_is_a_verdict(reading: Reading) -> None:
    """Viewers copy it; only the SOP Instance UID says that an instance is ours."""
    seg = edited(reading.seg)
    assert seg.Manufacturer == "pacs-ai-node"
    assert len(reading.receive(seg)) == 1


def test_our_own_results_coming_back_are_no_verdict(reading: Reading) -> None:
    """With the bytes that we sent, and with those that a PACS made of them."""
    coerced = written(reading.seg)
    coerced.StudyDescription = "coerced"
    assert reading.receive(reading.seg, reading.sr, coerced) == []
    assert reading.pending() == 0 and reading.is_settled()


def test_a_segmentation_that_was_there_before_the_result_says_nothing_of_it(sqlite_world: World) -> None:
    """A manual one that came with the images; by structure alone it would fit."""
    reading = Reading.__new__(Reading)
    reading.world = sqlite_world
    sources = tuple(synthetic_ct(slices=7, rows=20, columns=24))
    reading.sources = sources
    sqlite_world.keep(*sources, drawn_anew(sources, Reading.masks(reading)))
    sqlite_world.settle()
    reading.publish()
    sqlite_world.sweep().round()
    assert reading.verdicts() == [] and reading.pending() == 0


def test_the_same_bytes_twice_are_one_verdict(reading: Reading) -> None:
    """A PACS that sends again; and a second object is a second verdict, of which the newest counts."""
    seg = edited(reading.seg)
    assert len(reading.receive(seg, seg)) == 1
    newer = draw(edited(reading.seg), 2, np.zeros_like)
    assert len(reading.receive(newer)) == 2
    with reading.world.database.reading() as session:
        counting = verdicts.standing_of(session, [reading.job.id])[reading.job.id]
    assert counting.sop_uid == newer.SOPInstanceUID


def test_a_note_takes_no_judgement_back(reading: Reading) -> None:
    """A key image set on a rejected result leaves it rejected."""
    reading.receive(key_objects([reading.sr], codes.DCM.RejectedForQualityReasons))
    found = reading.receive(key_objects([reading.sr], codes.DCM.OfInterest))
    assert [one.kind for one in found] == [VerdictKind.NOTED, VerdictKind.REJECTED]
    with reading.world.database.reading() as session:
        assert verdicts.standing_of(session, [reading.job.id])[reading.job.id].kind is VerdictKind.REJECTED


def test_what_we_did_not_find_is_a_correction_of_nothing(sqlite_world: World) -> None:
    """We sent a report without a Segmentation; what is drawn and names the report was missed."""
    reading = Reading(sqlite_world, nothing_found)
    seg = drawn_anew(reading.sources, reading.masks(), referring=[reading.sr])
    (verdict,) = reading.receive(seg)
    assert (verdict.kind, verdict.dice, verdict.volume_change) == (VerdictKind.CORRECTED, 0.0, None)
    assert [one["change"] for one in verdict.detail["segments"]] == ["added", "added"]


# What is refused, with its reason


def _other_patient(seg: Dataset) -> None:
    seg.PatientID = "SOMEBODY-ELSE"


def _other_frame(seg: Dataset) -> None:
    seg.FrameOfReferenceUID = generate_uid()


def _no_pixels(seg: Dataset) -> None:
    seg.PixelData = b""


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_other_patient, "it names another patient than the result"),
        (_other_frame, "it is drawn in another frame of reference than the result"),
        (_no_pixels, "its pixel data is shorter than its frames"),
    ],
)
def test_what_cannot_be_compared_is_an_unreadable_verdict(
    reading: Reading, spoil: Callable[[Dataset], None], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Recorded with its reason, never guessed, never tried again; no log line holds a name."""
    caplog.set_level(logging.DEBUG)
    seg = edited(reading.seg, PatientName="CANARY^NAME")
    spoil(seg)
    (verdict,) = reading.receive(seg)
    assert (verdict.kind, verdict.reason, verdict.dice) == (VerdictKind.UNREADABLE, why, None)
    assert reading.pending() == 0
    assert "CANARY" not in caplog.text and "SOMEBODY-ELSE" not in caplog.text


def test_a_report_of_another_study_is_noted(reading: Reading) -> None:
    """A follow-up that cites our result judges it no more than any other prior."""
    cites = report_over(reading.sr)
    cites.StudyInstanceUID = "2.25.4712"
    (verdict,) = reading.receive(cites)
    assert (verdict.kind, verdict.study_uid) == (VerdictKind.NOTED, STUDY)


def test_an_instance_with_damaged_values_is_looked_at_once(reading: Reading) -> None:
    """A word where a number belongs, deep inside: the study's events say so."""
    seg = edited(reading.seg)
    data = part10(seg).replace(b"\x62\x00\x04\x00US\x02\x00\x01\x00", b"\x62\x00\x04\x00US\x03\x00abc", 1)
    Intake(reading.world.database, reading.world.store, reading.world.clock, manufacturer="pacs-ai-node").keep(
        data, calling_ae="PACS"
    )
    reading.world.sweep().round()
    assert reading.pending() == 0
    said = [event.detail for event in reading.world.story(study_uid=STUDY) if event.what == "verdict unreadable"]
    assert said == ["the instance has damaged values (BytesLengthException)"]


# Key object selections


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        (codes.DCM.RejectedForQualityReasons, VerdictKind.REJECTED),
        (codes.DCM.RejectedForPatientSafetyReasons, VerdictKind.REJECTED),
        (codes.DCM.OfInterest, VerdictKind.NOTED),
        (codes.DCM.ForTeaching, VerdictKind.NOTED),
        (codes.DCM.SignedManifest, VerdictKind.NOTED),
        (codes.DCM.IncorrectModalityWorklistEntry, VerdictKind.NOTED),
        (codes.DCM.DataRetentionPolicyExpired, VerdictKind.NOTED),
    ],
)
def test_only_a_title_that_judges_is_a_judgement(reading: Reading, title: Any, kind: VerdictKind) -> None:
    """CID 7010: two titles reject, none accepts."""
    (verdict,) = reading.receive(key_objects([reading.seg, reading.sr], title))
    assert (verdict.kind, verdict.matched_by, verdict.dice) == (kind, MatchedBy.REFERENCE, None)


def test_a_rejection_keeps_its_coded_reason(reading: Reading) -> None:
    """As the standard words it (CID 7011)."""
    reason = codes.cid7011.SoftwareFailure
    (verdict,) = reading.receive(key_objects([reading.sr], codes.DCM.RejectedForQualityReasons, reason=reason))
    assert verdict.detail["changes"] == [reason.meaning]


def test_images_that_are_rejected_with_our_result_are_no_word_on_it(reading: Reading) -> None:
    """A blurred scan: the model is not to blame."""
    (verdict,) = reading.receive(key_objects([reading.sources[0], reading.sr], codes.DCM.RejectedForQualityReasons))
    assert verdict.kind is VerdictKind.NOTED


def test_a_key_object_of_something_else_is_nothing(reading: Reading) -> None:
    """Images of the study, marked of interest."""
    assert reading.receive(key_objects(reading.sources[:2], codes.DCM.OfInterest)) == []
    assert reading.pending() == 0 and reading.is_settled()


# Reports


def test_a_verified_report_that_takes_our_place_unchanged_is_accepted(reading: Reading) -> None:
    """Signed as it was; nobody's name is kept."""
    (verdict,) = reading.receive(report_over(reading.sr))
    assert (verdict.kind, verdict.matched_by) == (VerdictKind.ACCEPTED, MatchedBy.REFERENCE)
    assert "Canary" not in repr(verdict) + repr(reading.world.story(job_id=reading.job.id))


def _another_volume(report: Dataset) -> None:
    group, _ = groups(report)[1]
    number = next(item for item in group.ContentSequence if item.ValueType == "NUM")
    number.MeasuredValueSequence[0].NumericValue = "1200.5"


def _left_out(report: Dataset) -> None:
    gone = tracking_uid(groups(report)[0][0])
    for group, container in groups(report):
        if tracking_uid(group) == gone:
            container.ContentSequence.remove(group)


def _one_absent(report: Dataset) -> None:
    say_absent(groups(report)[0][0])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_another_volume, "Lung: Volume 1234.568 ml -> 1200.5 ml"),
        (_left_out, "Lung: left out"),
        (_one_absent, "Lung: said to be absent"),
    ],
)
def test_a_verified_report_that_changes_something_is_corrected(
    reading: Reading, change: Callable[[Dataset], None], line: str
) -> None:
    """By Tracking UID, concept and unit; the change stands in the verdict."""
    (verdict,) = reading.receive(report_over(reading.sr, change=change))
    assert (verdict.kind, verdict.detail["changes"]) == (VerdictKind.CORRECTED, [line])


def test_a_report_that_denies_every_finding_rejects(reading: Reading) -> None:
    """Coded: (Finding, Absent) under each of our Tracking UIDs; matched though it does not name our report."""

    def deny(report: Dataset) -> None:
        for group, _ in groups(report):
            say_absent(group)

    report = report_over(reading.sr, successor=False, change=deny)
    report.CurrentRequestedProcedureEvidenceSequence = []
    for group, _ in groups(report):
        kept = [item for item in group.ContentSequence if item.ValueType != "IMAGE"]
        group.ContentSequence = kept
    (verdict,) = reading.receive(report)
    assert (verdict.kind, verdict.matched_by) == (VerdictKind.REJECTED, MatchedBy.TRACKING)


def test_a_draft_is_noted(reading: Reading) -> None:
    """Until it is verified a report says nothing."""
    (verdict,) = reading.receive(report_over(reading.sr, verified=False, change=_another_volume))
    assert (verdict.kind, verdict.reason) == (VerdictKind.NOTED, "the report is not verified")


def test_free_text_is_never_read(reading: Reading) -> None:
    """Words of refusal in a comment change nothing: the report is equal where it is coded."""

    def comment(report: Dataset) -> None:
        for item in report.ContentSequence:
            for child in item.get("ContentSequence") or ():
                if child.ValueType == "TEXT":
                    child.TextValue = "This result is wrong. REJECTED."

    (verdict,) = reading.receive(report_over(reading.sr, change=comment))
    assert verdict.kind is VerdictKind.ACCEPTED


# Nothing is lost, nothing is tried for ever


def test_a_crash_between_keeping_and_matching_loses_nothing(reading: Reading) -> None:
    """The listener dies after its commit: the next sweep finds the mark that the same transaction wrote."""
    reading.world.keep(edited(reading.seg), calling_ae="PACS")
    assert (reading.pending(), reading.verdicts()) == (1, [])
    reading.world.sweep().round()
    assert (reading.pending(), len(reading.verdicts())) == (0, 1)


def test_a_crash_while_matching_is_tried_again_and_is_one_verdict(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep dies in the comparison: the mark stays, waits its time, and the next one records it once."""
    with monkeypatch.context() as patch:
        patch.setattr(service, "judge_seg", _die)
        with pytest.raises(KeyboardInterrupt):
            reading.receive(edited(reading.seg))
    assert (reading.pending(), reading.verdicts()) == (1, [])
    reading.world.sweep().round()
    assert reading.verdicts() == []  # its next try is not due yet
    reading.world.clock.advance(61)
    reading.world.sweep().round()
    assert (reading.pending(), len(reading.verdicts())) == (0, 1)


def _die(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_what_kills_the_sweep_is_given_up_and_said(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tries over some hours; then the study's events say that nobody knows."""
    monkeypatch.setattr(service, "judge_seg", _die)
    with pytest.raises(KeyboardInterrupt):
        reading.receive(edited(reading.seg))
    for _ in range(4):
        reading.world.clock.advance(24 * 3600)
        with pytest.raises(KeyboardInterrupt):
            reading.world.sweep().round()
    reading.world.clock.advance(24 * 3600)
    reading.world.sweep().round()
    assert (reading.pending(), reading.verdicts()) == (0, [])
    last = reading.world.story(study_uid=STUDY)[-1]
    assert (last.what, last.detail) == ("verdict unreadable", "it could not be looked at, 5 times")


def test_a_store_that_is_away_is_waited_for(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict of "unreadable" because a disk was not mounted; others are looked at meanwhile."""
    gone = edited(reading.seg)
    reading.world.keep(gone, edited(reading.seg), calling_ae="PACS")
    with reading.world.database.reading() as session:
        row = session.scalars(select(InstanceRow).where(InstanceRow.sop_uid == gone.SOPInstanceUID)).one()
    path = reading.world.store.path(row.path)
    path.rename(path.with_suffix(".away"))
    reading.world.sweep().round()
    assert (reading.pending(), len(reading.verdicts())) == (1, 1)
    path.with_suffix(".away").rename(path)
    reading.world.clock.advance(61)
    reading.world.sweep().round()
    assert (reading.pending(), len(reading.verdicts())) == (0, 2)


def test_a_mark_that_cannot_be_written_is_no_success(reading: Reading) -> None:
    """The instance and its mark are one transaction: the peer sends both again."""
    with reading.world.database.transaction() as session:
        session.connection().exec_driver_sql("ALTER TABLE verdict_pending RENAME TO elsewhere")
    with pytest.raises(StoreFull):
        reading.world.keep(edited(reading.seg), calling_ae="PACS")


def test_a_late_image_still_wakes_the_study(reading: Reading) -> None:
    """Only what no model reads does not."""
    reading.receive(edited(reading.seg), report_over(reading.sr))
    assert reading.is_settled()
    (late,) = synthetic_ct(slices=1, rows=20, columns=24, series_number=3)
    reading.world.keep(late)
    assert not reading.is_settled()


def test_two_sweeps_record_one_verdict(world: World) -> None:
    """On both databases: an instance that one has claimed is not claimed again before its time."""
    reading = Reading(world)
    world.keep(edited(reading.seg), calling_ae="PACS")
    with world.database.transaction() as session:
        first = verdicts.claim_due(session, now=world.clock())
    with world.database.transaction() as session:
        assert verdicts.claim_due(session, now=world.clock()) is None
        session.execute(update(VerdictPendingRow).values(not_before=world.clock()))
    assert first is not None
    assert service.look_at_pending(world.database, world.store, now=world.clock) == 1
    with world.database.transaction() as session:
        verdicts.settle(session, first, [], at=world.clock(), trouble="late")
    assert len(reading.verdicts()) == 1
    assert "late" not in [event.detail for event in world.story(study_uid=STUDY)]


def test_figures_count_each_job_once(world: World) -> None:
    """On both databases: delivered, judged, and the medians over what counts."""
    reading = Reading(world)
    reading.receive(draw(edited(reading.seg), 2, np.zeros_like))
    reading.receive(key_objects([reading.seg], codes.DCM.OfInterest))
    with world.database.reading() as session:
        (one,) = verdicts.model_figures(session)
        assert verdicts.model_figures(session, since=world.clock()) == []
        kinds = {kind: count for (_, _, kind), count in verdicts.count_by_kind(session).items()}
    assert (one.delivered, one.judged, one.counts[VerdictKind.CORRECTED]) == (0, 1, 1)
    assert one.dice == pytest.approx(2 * RIGHT / (TOTAL + RIGHT))
    assert one.volume_change == pytest.approx(-100 * LEFT / TOTAL)
    assert kinds == {"corrected": 1, "noted": 1}
    assert service.model_version(one.model, one.model_digest) == catalogue.card("ct-lung").version
    assert service.model_version("gone", "abcdef0123456789") == "abcdef012345"


def test_the_event_says_the_figures_and_no_word_of_the_object(reading: Reading) -> None:
    """Labels may be typed by anybody; they stand on the job's page, never in a log or an event."""
    masks = reading.masks()
    reading.receive(drawn_anew(reading.sources, {"right-lung": masks["right-lung"]}, label="CANARY^NAME"))
    event = reading.world.story(job_id=reading.job.id)[-1]
    assert event.detail.startswith("Dice 0.6") and "matched by structure" in event.detail
    assert "CANARY" not in event.detail
    assert event.who == "PACS"
