"""Where samples come from: generated bodies, drawn once and kept in a cache, and real cases prepared beforehand.

A sample is already on the training grid. A cached one is named by all that made it: what was asked for, the seed, and
a digest of the generator's own code, so that a changed generator is never mistaken for the old one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from models.contract import Volume

_MODELS = Path(__file__).resolve().parents[1]
_DECIDING = (
    "sampling.py", "lungs.py", "ct_lung_nodule/candidates.py", "ct_lung_nodule/filters.py", "train/samples.py",
    "train/cubes.py",
)  # fmt: skip


class SampleError(ValueError):
    """A prepared case is not what it should be; the message names its file."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """One body, crop or series as a network is taught it."""

    name: str
    voxels: NDArray[np.int16]  # (z, y, x) HU; of several cubes (n, z, y, x)
    labels: NDArray[np.uint8]  # what is true of it: of each voxel, of each slice or of the whole, as the task wants


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """A real series with what is known of it."""

    name: str
    volume: Volume
    labels: NDArray[np.uint8]  # (z, y, x) as the generator counts; 255 where nothing is known
    facts: dict[str, Any]  # licence, region, nodules and whence the labels come


#: Makes the sample of one seed; a function of a module (or a partial of one), since other processes call it.
Draw = Callable[[int], Sample]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """A folder of samples that were drawn before."""

    folder: Path
    processes: int = 1

    def samples(self, draw: Draw, seeds: Sequence[int], asked: dict[str, Any], what: str) -> list[Sample]:
        """Return the sample of each of *seeds*, drawn where it is not there yet, a progress bar beside it.

        *asked* is all that *draw* depends on beside the seed and the generator's code.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = hashlib.sha256(json.dumps([asked, generator_digest()], sort_keys=True).encode()).hexdigest()[:16]
        files = [self.folder / f"{stem}-{seed}.npz" for seed in seeds]
        missing = [(seed, file) for seed, file in zip(seeds, files, strict=True) if not file.exists()]
        if missing:
            self._draw(draw, missing, what)
        return [_read_sample(file) for file in files]

    def _draw(self, draw: Draw, missing: list[tuple[int, Path]], what: str) -> None:
        if self.processes <= 1:
            for seed, file in track(missing, description=f"drawing {what}"):
                _keep(draw, seed, file)
            return
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the processes share the cores already
        with ProcessPoolExecutor(self.processes, mp_context=get_context("spawn")) as pool:
            kept = pool.map(partial(_keep, draw), *zip(*missing, strict=True), chunksize=1)
            for _ in track(kept, description=f"drawing {what}", total=len(missing)):
                pass


@cache
def generator_digest() -> str:
    """Return a SHA-256 over all code that decides what a seed gives: generator, sampling, tasks, candidates."""
    files = [*sorted((_MODELS / "generator").glob("*.py")), *(_MODELS / one for one in _DECIDING)]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def read_cases(folder: Path) -> list[Case]:
    """Return the prepared cases of *folder* in the order of their names; SampleError where one is broken."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise SampleError(f"{folder}: holds no prepared case (*.npz); python -m workers.prepare writes them")
    return [_read_case(file) for file in files]


def save_case(case: Case, file: Path) -> None:
    """Write *case* to *file*, for `read_cases`."""
    np.savez_compressed(
        file, voxels=case.volume.voxels.astype(np.float16), affine=case.volume.affine, labels=case.labels,
        meta=np.array(json.dumps({"modality": case.volume.modality, "facts": case.facts})),
    )  # fmt: skip


def parted(names: Sequence[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the places of *names* to learn from and to validate with: about *share* of them, settled by *seed*.

    Each name's place in the draw depends on itself alone, so a case that is added moves no other to the other part.
    """
    held = [
        place for place, name in enumerate(names)
        if int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") < share * 2**64
    ]  # fmt: skip
    return [place for place in range(len(names)) if place not in held], held


def _read_case(file: Path) -> Case:
    try:
        with np.load(file, allow_pickle=False) as held:
            meta = json.loads(str(held["meta"]))
            volume = Volume(
                voxels=held["voxels"].astype(np.float32), affine=held["affine"].astype(np.float64),
                modality=meta["modality"],
            )  # fmt: skip
            labels = held["labels"]
    except (KeyError, ValueError, OSError) as why:
        raise SampleError(f"{file}: is no prepared case: {why}") from why
    if labels.shape != volume.voxels.shape or labels.dtype != np.uint8:
        raise SampleError(f"{file}: labels are {labels.dtype} {labels.shape}, voxels {volume.voxels.shape}")
    return Case(name=file.stem, volume=volume, labels=labels, facts=meta["facts"])


def _keep(draw: Draw, seed: int, file: Path) -> None:
    """Draw one sample and write it whole: another run never finds half a file."""
    sample = draw(seed)
    part = file.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as out:
        np.savez_compressed(out, voxels=sample.voxels, labels=sample.labels, name=np.array(sample.name))
    part.replace(file)


def _read_sample(file: Path) -> Sample:
    with np.load(file, allow_pickle=False) as held:
        return Sample(name=str(held["name"]), voxels=held["voxels"], labels=held["labels"])

