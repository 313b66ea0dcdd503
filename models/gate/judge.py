"""Which region each slice shows, and whether the scan is like anything that the network has seen; then a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.contract import Picture, Progress, Volume
from models.gate.looks import Looks, looks_at, tells_nothing
from models.gate.picture import Heat, draw, heat_of, plain
from models.gate.whole import Whole, remarks_on, seen_of, shows, whole_of, why_of_another_phase, why_turned
from models.network import SliceClassifier, load_network, read_facts

WEIGHTS = Path(__file__).with_name("weights.safetensors")
_WORDS = {
    "chest": "a chest", "abdomen": "an abdomen", "pelvis": "a pelvis", "head": "a head", "neck": "a neck",
    "legs": "legs", "object": "a phantom or another thing",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Where the gate draws the line; they travel with the weights."""

    evidence: float  # a scan with no slice that is likelier than this to show a wanted region is refused
    strangeness: float  # a scan that is stranger than this is refused
    phase: float  # log-odds above which a phase is sure
    turns: tuple[float, ...]  # by TURNS, log-odds above which it is sure that a scan lies so, or otherwise

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Limits:
        """Return the limits among the *facts* of a file of weights."""
        limits: dict[str, Any] = facts["limits"]
        return cls(**{**limits, "turns": tuple(limits["turns"])})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judgement:
    """What the gate found of one scan."""

    fits: bool
    reason: str  # one sentence for people; empty where it fits
    slices: tuple[int, ...] = ()  # that were looked at, counted from the feet; none where nothing could be told
    regions: tuple[str, ...] = ()  # the likeliest of each of these
    share: float = 0.0  # of these slices that show a wanted region: the mean of their probabilities
    evidence: float = 0.0  # the greatest of these probabilities
    score: float = 0.0  # how strange the scan is: about 1 for the like of what was trained on
    limit: float = 0.0  # the score above which it is refused
    whole: Whole | None = None  # phase of contrast, and how the scan lies; None where nothing could be told
    remarks: tuple[str, ...] = ()  # sentences that whoever reads the result should know
    picture: Callable[[], Picture] = field(repr=False)  # draws what was seen and what spoke for it: RGB (y, x, 3)

    @property
    def seen(self) -> str:
        """What was seen, for people: regions counted; contrast and how it lies, where known. Empty where nothing is."""
        counted = (f"{name} in {count}" for name, count in Counter(self.regions).most_common())
        return ", ".join((*counted, *(seen_of(self.whole) if self.whole else ())))


class Gate:
    """Judges scans; the same voxels give the same judgement on the same kind of processor."""

    def __init__(self, network: SliceClassifier, facts: Mapping[str, Any], device: str) -> None:
        data = facts["recipe"]["data"]
        self._network, self._device, self._limits = network, device, Limits.of(facts)
        self._spacing, self._canvas = tuple(data["spacing"]), int(data["canvas"])

    def judge(
        self, volume: Volume, regions: frozenset[str], progress: Progress, phases: frozenset[str] = frozenset()
    ) -> Judgement:
        """Return whether *volume* shows any of *regions*, and if any *phases* are named one of these.

        Where nothing can be told it is let through.
        """
        settings = self._network.settings
        for known, asked in ((settings.regions, regions), (settings.phases, phases)):
            if unknown := asked - set(known):
                raise ValueError(f"the gate knows {', '.join(known)}, not {sorted(unknown)}")
        if not regions:
            raise ValueError(f"the gate must be asked for one of {', '.join(settings.regions)}")
        if volume.modality != "CT":
            what = volume.modality or "of an unknown modality"
            return Judgement(fits=False, reason=f"this is {what}, not CT", picture=lambda: plain(volume))
        if tells_nothing(volume):
            return Judgement(fits=True, reason="", picture=lambda: plain(volume))
        progress(0.0, "looking at what is shown")
        return self._judged(volume, regions, phases, looks_at(volume, self._spacing, self._canvas))

    def _judged(
        self, volume: Volume, regions: frozenset[str], phases: frozenset[str], looks: Looks
    ) -> Judgement:
        probabilities, score = self.seen(looks.pictures)
        names = self._network.settings.regions
        wanted = probabilities[:, [names.index(one) for one in sorted(regions)]].sum(axis=1)
        likeliest = probabilities.argmax(axis=1)
        found = tuple(names[one] for one in likeliest)
        whole = self.whole(looks.pictures, found)
        reason = (
            self._reason(found, float(wanted.max()), score, regions) or why_turned(whole)
            or why_of_another_phase(whole, phases, self._limits.phase)
        )  # fmt: skip

        def heat(n: int) -> Heat:
            return heat_of(self._network, torch.from_numpy(looks.pictures[n]).to(self._device), int(likeliest[n]))

        return Judgement(
            fits=not reason, reason=reason, slices=tuple(looks.places.tolist()), regions=found,
            share=float(wanted.mean()), evidence=float(wanted.max()), score=score, limit=self._limits.strangeness,
            whole=whole, remarks=remarks_on(whole), picture=lambda: draw(volume, looks.places, heat, self._spacing[2]),
        )  # fmt: skip

    def seen(self, pictures: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        """Return of *pictures* (slices, y, x) the probabilities of regions (slices, regions), and their strangeness.

        The latter is the median over the slices: a few odd ones, as of metal, make no scan strange.
        """
        with torch.inference_mode():
            features = self._network.features(torch.from_numpy(pictures[None]).to(self._device))
            of_slices, _ = self._network.judge(features)
            strange = self._network.strangeness(features)
        return of_slices[0].softmax(dim=-1).cpu().numpy(), float(strange[0].median())

    def whole(self, pictures: NDArray[np.float32], found: tuple[str, ...]) -> Whole:
        """Return phase and turns of *pictures* (slices, y, x), of which the regions *found* are the likeliest."""
        with torch.inference_mode():
            of_phase, of_turns = self._network.whole(torch.from_numpy(pictures[None]).to(self._device))
        return whole_of(
            of_phase[0].cpu().numpy(), of_turns[0].cpu().numpy(), self._network.settings.phases, self._limits.phase,
            self._limits.turns, told=shows(found),
        )  # fmt: skip

    def _reason(self, found: tuple[str, ...], evidence: float, score: float, regions: frozenset[str]) -> str:
        """Return why the scan is refused; empty where it is not."""
        if score > self._limits.strangeness:
            limit = self._limits.strangeness
            return f"unlike anything that the model was made for (score {score:.1f}, limit {limit:.1f})"
        if evidence >= self._limits.evidence:
            return ""
        asked = " or ".join(_WORDS[one] for one in sorted(regions))
        others = Counter(one for one in found if one not in regions)
        if not others:  # of each slice a wanted region is the likeliest, and of none likely enough
            return f"no slice of this looks enough like {asked}"
        ((likeliest, count),) = others.most_common(1)
        return f"this looks like {_WORDS[likeliest]} ({count} of {len(found)} slices looked at), not {asked}"


@cache
def load(device: str) -> Gate:
    """Return the gate with its weights on the torch *device*."""
    return Gate(load_network(WEIGHTS, device, SliceClassifier), read_facts(WEIGHTS), device)
