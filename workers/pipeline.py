"""One attempt of one job: source images in, a frozen result set out."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from pydicom import Dataset, dcmread
from sqlalchemy.exc import SQLAlchemyError

from models import catalogue
from node.bootstrap import Services
from node.db import events, jobs, results
from node.db.jobs import NewResult
from node.db.studies import StoredInstance
from node.delivery import addresses
from node.dicom.encode import ResultContext, ResultObject, encode
from node.dicom.reader import read_headers
from node.domain.job import Job
from node.domain.profile import DEFAULT, Profile
from node.domain.result import Result, ResultRole
from node.errors import ChildDied, GpuOutOfMemory, InputInvalid, LeaseLost, Leaving, OutputInvalid
from node.failpoints import reach
from node.pictures import load_pictures, write_report
from node.store import sha256_hex
from workers import findings_io
from workers.inference import InferenceChild, Ran, Request

log = logging.getLogger(__name__)

#: What a reference to an instance needs.
_PATIENT = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientName")  # equal: the same person
_IDENTIFIED_BY = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]


class Heartbeat:
    """Prolongs a job's lease from a thread of its own for as long as the block lasts."""

    def __init__(self, services: Services, job: Job) -> None:
        self._services, self._job = services, job
        self._over, self._lost = threading.Event(), threading.Event()
        self._progress, self._stage = 0.0, "starting"
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def show(self, progress: float, stage: str) -> None:
        """Say how far the attempt is; shown with the next beat."""
        self._progress, self._stage = progress, stage

    @property
    def lost(self) -> bool:
        """Whether somebody else has moved the job on."""
        return self._lost.is_set()

    def _beat(self) -> None:
        settings = self._services.settings
        while not self._over.wait(settings.heartbeat.total_seconds()):
            reach("job.heartbeat")
            try:
                with self._services.database.transaction() as session:
                    ours = jobs.beat(
                        session, self._job, now=self._services.now(), lease=settings.lease,
                        progress=self._progress, stage=self._stage,
                    )  # fmt: skip
            except SQLAlchemyError as why:  # the lease outlasts several beats; the fence decides if it does not
                log.warning("heartbeat missed", extra={**self._job.fields, "why": type(why).__name__})
                continue
            if not ours:
                self._lost.set()
                return

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


def run_attempt(services: Services, child: InferenceChild, job: Job, *, leaving: threading.Event) -> Ran:
    """Run the model for *job*, freeze and publish its results; everything else is raised.

    Raises Leaving where this worker had to go, as *leaving* says, before the model was through.
    """
    with services.database.reading() as session:
        instances = jobs.inputs(session, job.id)
    if catalogue.digest(job.model) != job.model_digest:
        raise OutputInvalid(f"model {job.model} has changed since this job was planned: retry it to use the new one")
    scratch = services.store.scratch(job.id, job.epoch)
    try:
        with Heartbeat(services, job) as heart:
            paths = _checked_paths(services, instances)
            ran = _run_model(services, child, job, Request(
                paths=paths, model=job.model, device=services.settings.device, folder=scratch,
            ), heart, leaving)  # fmt: skip
            reach("job.inferred")
            heart.show(1.0, "encoding results")
            objects = encode_checked(services, job, paths, scratch)
            reach("job.encoded")
            _publish(services, job, objects, scratch, lost=lambda: heart.lost)
        return ran
    finally:
        services.store.drop_scratch(scratch)


def _run_model(
    services: Services, child: InferenceChild, job: Job, request: Request, heart: Heartbeat, leaving: threading.Event
) -> Ran:
    """Run the model in the child; where its GPU has not enough memory, once more without it, if its card allows."""

    def run(one: Request) -> Ran:
        return child.run(
            one, limit=services.settings.job_time_limit.total_seconds(), on_progress=heart.show,
            stop=lambda: heart.lost or leaving.is_set(), memory_mib=services.settings.model_memory_mib,
        )  # fmt: skip

    try:
        try:
            return run(request)
        except GpuOutOfMemory as why:
            if not catalogue.card(job.model).processor:
                raise
            log.warning("again without the GPU: %s", why, extra=job.fields)
        with services.database.transaction() as session:
            detail = "the GPU has not enough memory: once more on the processor"
            events.record(session, "without GPU", who=job.owner, at=services.now(), detail=detail, job_id=job.id)
        return run(replace(request, device="cpu"))
    except ChildDied as why:
        if leaving.is_set() and not heart.lost:
            raise Leaving("the worker was stopped before the model was through") from why
        raise


def _checked_paths(services: Services, instances: list[StoredInstance]) -> tuple[Path, ...]:
    for instance in instances:
        if not services.store.verify(instance.path, instance.content_sha):
            raise InputInvalid(f"instance {instance.sop_uid} is missing or damaged in the store: send it again")
    return tuple(services.store.path(instance.path) for instance in instances)


def encode_checked(services: Services, job: Job, paths: tuple[Path, ...], folder: Path) -> tuple[ResultObject, ...]:
    """Return the result set of what the child left in *folder*; OutputInvalid where it fails the gate."""
    context = context_for(services, job, paths)
    findings, profiles, pictures = findings_io.load(folder), profiles_of(services, job), folder / "pictures"
    if any(profile.pdf for profile in profiles):
        write_report(pictures, findings, context)
    return encode(findings, context, profiles, load_pictures(pictures))


def context_for(services: Services, job: Job, paths: tuple[Path, ...]) -> ResultContext:
    """Return all that the results of *job* say besides its findings."""
    source = read_headers(paths)
    with services.database.reading() as session:
        before, earlier = results.previous_set(session, job), results.prior_set(session, job)
    before, earlier = (
        [one for one in made if services.store.verify(one.path, one.sha256)] for made in (before, earlier)
    )
    return ResultContext(
        sources=source.headers, frames=source.frames, card=catalogue.card(job.model), model_digest=job.model_digest,
        node=services.node, revision=job.revision, input_digest=job.input_digest, at=job.settled_at,
        predecessors={one.variant: _read(services, one, _IDENTIFIED_BY) for one in before if one.role == ResultRole.SR},
        prior=_prior(services, [*before, *earlier], source.headers[0]), history=_history(job, [*before, *earlier]),
    )  # fmt: skip


def _history(job: Job, made: list[Result]) -> str:
    """Return a digest of the earlier results of other jobs, which decide how things are called; "" where none is."""
    uids = sorted(one.sop_uid for one in made if one.job_id != job.id)
    return sha256_hex("\n".join(uids).encode()) if uids else ""


def _prior(services: Services, made: list[Result], source: Dataset) -> tuple[Dataset, ...]:
    """Return the segmentations of *made*, the newest set first, that are of the same patient as *source*."""
    segs = [_read(services, one, None) for one in made if one.role == ResultRole.SEG]
    return tuple(seg for seg in segs if all(str(seg.get(k) or "") == str(source.get(k) or "") for k in _PATIENT))


def _read(services: Services, result: Result, tags: list[str] | None) -> Dataset:
    return dcmread(services.store.path(result.path), specific_tags=tags)


def profiles_of(services: Services, job: Job) -> tuple[Profile, ...]:
    """Return the profiles of all that the results of *job* go to; the default one where they go nowhere."""
    known = services.settings.profiles
    names = dict.fromkeys(address.profile for address in addresses(job, services.settings.peers))
    return tuple(known[name] for name in names or (DEFAULT,))


def _publish(
    services: Services, job: Job, objects: tuple[ResultObject, ...], scratch: Path, *, lost: Callable[[], bool]
) -> None:
    """Freeze the set on disk, then record it with its deliveries, fenced by the job's epoch."""
    if lost():
        raise LeaseLost(f"job {job.id} was taken away before its results were frozen")
    files = [(f"{position}-{one.role}.dcm", one.data) for position, one in enumerate(objects)]
    names = services.store.put_results(job.id, job.epoch, files)
    reach("job.frozen")
    _keep_pictures(scratch / "pictures", services.store.pictures(job.id))
    findings_io.keep(scratch, services.store.findings(job.id))
    made = [
        NewResult(
            role=str(one.role), variant=one.variant, profiles=one.profiles,
            sop_class=str(one.dataset.SOPClassUID), sop_uid=one.sop_uid,
            path=name, sha256=sha256_hex(data), size=len(data),
        )
        for one, name, (_, data) in zip(objects, names, files, strict=True)
    ]  # fmt: skip
    where = addresses(job, services.settings.peers)
    services.database.patiently(
        lambda session: jobs.publish(session, job, made, where, at=services.now()),
        seconds=services.settings.lease.total_seconds(),
    )
    reach("job.published")


def _keep_pictures(made: Path, kept: Path) -> None:
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(made, kept)
