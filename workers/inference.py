"""The inference child: a spawned process that decodes pixels and runs models, and does nothing else.

It is given file names and a folder to write to; it has no database and no settings. A crash, a hang or a model
that eats all memory ends the child, and the parent goes on.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models import catalogue
from models.contract import Card, Detection, Findings, Mask, Model, NotApplicable, Progress, Segment, Volume
from node.dicom.gate.findings import check_body_side
from node.dicom.measure import measure
from node.dicom.reader import LoadedSeries, read_series
from node.errors import (
    ChildDied,
    GpuOutOfMemory,
    InputInvalid,
    ModelNotApplicable,
    NodeError,
    OutOfMemory,
    OutputInvalid,
)
from node.failpoints import reach
from node.logs import failure
from node.pictures import encode_declined, render_overlays, render_pages
from workers import findings_io

log = logging.getLogger(__name__)

_POLL = 0.2  # seconds between looks at the child
_READING, _MODEL, _PICTURES = 0.15, 0.80, 0.05  # shares of the progress bar


Found = TypeVar("Found", Segment, Detection)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One run of one model over one series."""

    paths: tuple[Path, ...]
    model: str
    device: str  # "auto", "cpu", "cuda" or "cuda:N"
    folder: Path  # where findings and pictures go


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """How a run went."""

    device: str
    seconds: float
    peak_mib: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Message:
    kind: str  # "progress", "ran", "not applicable", "crashed" or a key of _FAILURES
    text: str = ""
    fraction: float = 0.0
    ran: Ran | None = None
    picture: bytes = b""  # of what was declined: PNG
    not_shown: str = ""  # why there is none


def infer(request: Request, models: dict[str, Model], progress: Callable[[float, str], None]) -> Ran:
    """Read the series, run the model and write findings and pictures into the request's folder."""
    began = time.monotonic()
    device = choose_device(request.device)
    series = read_series(request.paths, progress=lambda f: progress(_READING * f, "reading images"))
    progress(_READING, "loading the model")
    key = f"{request.model} {device}"
    if key not in models:
        models[key] = catalogue.load(request.model, device)
    reach("job.model_loaded")
    try:
        remarks = pass_gate(series.volume, catalogue.card(request.model), device, progress)
        findings = models[key].run(series.volume, lambda f, stage: progress(_READING + _MODEL * f, stage))
    except NotApplicable as why:
        raise _declined(why) from why
    findings = replace(findings, remarks=(*remarks, *findings.remarks))
    _check(findings, series, catalogue.card(request.model))
    reach("job.infer")
    placed = on_source_grid(findings, series)
    progress(1.0 - _PICTURES, "drawing")
    pictures, card = request.folder / "pictures", catalogue.card(request.model)
    pictures.mkdir(exist_ok=True)
    measured = with_measures(findings, placed)
    render_overlays(series.volume, measured, card, pictures)
    render_pages(series.volume, measured, card, pictures, series.source)
    findings_io.save(request.folder, placed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Ran(device=device, seconds=round(time.monotonic() - began, 2), peak_mib=round(peak))


def pass_gate(volume: Volume, card: Card, device: str, progress: Progress) -> tuple[str, ...]:
    """Return what the report should repeat of how *volume* was seen to lie.

    Raises NotApplicable, with reason, what was seen and picture, where it is nothing that the *card* wants.
    """
    if not card.regions:
        return ()
    from models import gate  # torch takes seconds to load; only the child needs it

    judgement = gate.load(device).judge(
        volume, card.regions, lambda _f, stage: progress(_READING, stage), card.phases
    )
    if not judgement.fits:
        seen = f" (seen: {judgement.seen})" if judgement.seen else ""
        raise NotApplicable(f"{judgement.reason}{seen}", picture=judgement.picture())
    return judgement.remarks


def choose_device(wanted: str) -> str:
    """Return the torch device to use: the GPU where there is one, unless the settings say otherwise."""
    import torch  # takes seconds; only the child needs it

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def on_source_grid(findings: Findings, series: LoadedSeries) -> Findings:
    """Return the same findings with their masks on the grid of the source images, in the order of its headers."""
    remarks = (*findings.remarks, *series.source.remarks)
    return Findings(
        segments=tuple(_placed(one, series.restore(one.mask), series) for one in findings.segments),
        detections=tuple(_placed(one, _detected(one, series), series) for one in findings.detections),
        maps=tuple(replace(one, values=_float(series.restored(one.values))) for one in findings.maps),
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _placed(one: Found, mask: Mask, series: LoadedSeries) -> Found:
    """Put *mask* (slices, rows, columns) in place of the model's, measured on the sources' own values and slices."""
    if not mask.any():
        return replace(one, mask=mask)
    values = series.values if series.volume.modality == "CT" else None  # other modalities' values have no unit
    measures = measure(mask, values, series.source.stack)
    return replace(one, mask=mask, volume_ml=measures.volume_ml, measures=measures)


def _detected(one: Detection, series: LoadedSeries) -> Mask:
    """A detection that fell between uneven slices keeps the pixel nearest to its centre."""
    mask = series.restore(one.mask)
    if mask.any():
        return mask
    stack = series.source.stack
    away = [abs(float((np.array(one.centre_mm) - corner) @ stack.normal)) for corner in stack.positions]
    place = int(np.argmin(away))
    column, row = stack.to_image(place, one.centre_mm)
    mask[place, min(max(int(row), 0), stack.rows - 1), min(max(int(column), 0), stack.columns - 1)] = True
    return mask


def _float(values: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values).astype(np.float32, copy=False)


def with_measures(findings: Findings, placed: Findings) -> Findings:
    """Return *findings*, on the grid of the volume, with the sizes of the same findings *placed* on the source grid."""

    def sized(one: Found, other: Found) -> Found:
        return replace(one, volume_ml=other.volume_ml, measures=other.measures)

    return replace(
        findings,
        segments=tuple(map(sized, findings.segments, placed.segments)),
        detections=tuple(map(sized, findings.detections, placed.detections)),
    )


def _check(findings: Findings, series: LoadedSeries, card: Card) -> None:
    shape = series.volume.voxels.shape
    drawn: tuple[Segment | Detection, ...] = (*findings.segments, *findings.detections)
    for one in drawn:
        if one.mask.shape != shape or one.mask.dtype != bool:
            raise OutputInvalid(f"the model's mask {one.key!r} is not a boolean grid of shape {shape}")
        if not one.mask.any():
            raise OutputInvalid(f"the model's mask {one.key!r} is empty")
    check_body_side(series.volume, findings, card)


def _declined(why: NotApplicable) -> ModelNotApplicable:
    """Return what the model says, with its picture as PNG; a picture that is none takes nothing from what it says."""
    if why.picture is None:
        return ModelNotApplicable(str(why))
    try:
        return ModelNotApplicable(str(why), picture=encode_declined(why.picture))
    except ValueError as fault:
        return ModelNotApplicable(str(why), not_shown=str(fault))


class InferenceChild:
    """One spawned process that keeps its models loaded between runs; started again when it is gone."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None where none runs."""
        return self._process.pid if self._process is not None else None

    def run(
        self, request: Request, *, limit: float, on_progress: Callable[[float, str], None], stop: Callable[[], bool],
        memory_mib: int = 0,
    ) -> Ran:  # fmt: skip
        """Run *request* within *limit* seconds; end the child and raise ChildDied where *stop* says so.

        Raises OutOfMemory where the child holds more than *memory_mib* (0: no limit); else as the child says: that,
        GpuOutOfMemory, InputInvalid, ModelNotApplicable or OutputInvalid.
        """
        connection = self._ready()
        connection.send(request)
        deadline = time.monotonic() + limit
        while True:
            if stop():
                self.kill()
                raise ChildDied("the job was taken away while the model ran")
            if time.monotonic() > deadline:
                self.kill()
                raise ChildDied(f"the model ran longer than {limit:g} s and was stopped")
            if memory_mib and (held := _held_mib(self.pid)) > memory_mib:
                self.kill()
                raise OutOfMemory(f"the model used {held:.0f} MiB, more than model_memory_mib, and was stopped")
            message = self._next(connection)
            if message is None:
                continue
            if message.kind == "progress":
                on_progress(message.fraction, message.text)
            else:
                if message.kind in ("crashed", "out of memory", "GPU out of memory"):
                    self.kill()  # what broke may have left the process, or its GPU context, broken for the next run
                return _answer(message)

    def _next(self, connection: Connection) -> _Message | None:
        try:
            if not connection.poll(_POLL):
                return None
            message = connection.recv()
        except (EOFError, ConnectionError) as why:
            code = self.kill()
            raise ChildDied(f"the inference process ended by itself ({_how(code)})") from why
        return message if isinstance(message, _Message) else None

    def _ready(self) -> Connection:
        if self._process is not None and self._process.is_alive() and self._connection is not None:
            return self._connection
        self.kill()
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs,), name="inference", daemon=True)
        self._process.start()
        theirs.close()
        self._connection = ours
        return ours

    def kill(self) -> int | None:
        """End the child, if there is one; return its exit code."""
        code = None
        if self._process is not None:
            self._process.kill()
            self._process.join()
            code = self._process.exitcode
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None
        return code


def _held_mib(pid: int | None) -> float:
    """Return the resident memory of a process in MiB; 0 where it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * resource.getpagesize() / 2**20


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}: out of memory, or killed" if code == -9 else f"signal {-code}"
    return f"exit code {code}"


_FAILURES: dict[str, type[NodeError]] = {
    "input invalid": InputInvalid, "output invalid": OutputInvalid,
    "out of memory": OutOfMemory, "GPU out of memory": GpuOutOfMemory,
}  # fmt: skip


def _answer(message: _Message) -> Ran:
    if message.ran is not None:
        return message.ran
    if message.kind == "not applicable":
        raise ModelNotApplicable(message.text, picture=message.picture, not_shown=message.not_shown)
    raise _FAILURES.get(message.kind, ChildDied)(message.text)


def _serve(connection: Connection) -> None:
    """The child's whole life: one request after another, until its parent is gone."""
    for name in [name for name in os.environ if name.startswith("PACS_NODE_")]:
        del os.environ[name]
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    models: dict[str, Model] = {}
    while True:
        try:
            request = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        connection.send(_serve_one(connection, request, models))


def _serve_one(connection: Connection, request: Request, models: dict[str, Model]) -> _Message:
    def progress(fraction: float, stage: str) -> None:
        connection.send(_Message(kind="progress", fraction=fraction, text=stage))

    try:
        return _Message(kind="ran", ran=infer(request, models, progress))
    except InputInvalid as why:
        return _Message(kind="input invalid", text=str(why))
    except ModelNotApplicable as why:
        return _Message(kind="not applicable", text=str(why), picture=why.picture, not_shown=why.not_shown)
    except OutputInvalid as why:
        return _Message(kind="output invalid", text=str(why))
    except Exception as why:  # noqa: BLE001  # the outermost frame of this process: told to the parent, which records it
        if isinstance(why, MemoryError):
            return _Message(kind="out of memory", text=f"not enough memory for the model ({failure(why)})")
        if type(why).__name__ == "OutOfMemoryError":  # torch's, which is not imported for this
            return _Message(kind="GPU out of memory", text=f"the GPU has not enough memory ({failure(why)})")
        return _Message(kind="crashed", text=f"the model failed: {failure(why)}")


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
