"""Lungs and airways on chest CT: a U-Net says what is what; the scan's own voxels say where it ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from models.contract import Findings, Mask, Model, NotApplicable, Progress, Segment, Volume
from models.ct_lung.airways import Leak, airways_on_the_scan
from models.ct_lung.surface import AIRWAYS, Classes, lung_field, on_the_scan, sides
from models.lungs import remarks
from models.network import UNet, load_network
from models.sampling import Grid, Values, neighbours, normalised, padding

_WEIGHTS = Path(__file__).with_name("weights.safetensors")
_SPACING = (3.0, 3.0, 3.0)  # mm (z, y, x): what the network was trained on
_SMALLEST = 128  # samples a side: the network has seen no smaller picture, so air is put about a small field
_TOGETHER = {"cpu": 2}  # slices in one forward pass: what more there is falls out of a processor's cache
_TOGETHER_ELSEWHERE = 16
_LEAST_ML = 40.0  # of lung, worth calling a chest


class LungModel:
    """Segments lungs and airways; the same voxels every time on the same kind of processor."""

    def __init__(self, network: UNet, device: str) -> None:
        self._network, self._device = network, device
        self._together = _TOGETHER.get(device, _TOGETHER_ELSEWHERE)

    def run(self, volume: Volume, progress: Progress) -> Findings:
        """Return a segment for each lung in view and one for the airways, where there are any to draw.

        NotApplicable where no lung is in view, or one of an unknown side.
        """
        left, right, classes, grid = self._looked_at(volume, progress)
        progress(0.9, "following the airways")
        said: tuple[str, ...] = ()
        try:
            airways = airways_on_the_scan(classes == AIRWAYS, (left, right), grid, volume)
        except Leak as why:
            airways, said = np.zeros_like(left), (str(why),)
        left &= ~airways  # the gas of a large bronchus is no lung, though lung lies about it
        right &= ~airways
        segments = tuple(
            Segment(key=key, mask=mask, volume_ml=float(mask.sum()) * volume.voxel_ml)
            for key, mask in (("left-lung", left), ("right-lung", right), ("airways", airways))
            if mask.any()
        )
        return Findings(segments=segments, remarks=(*remarks(left, right), *said))

    def lungs(self, volume: Volume, progress: Progress) -> tuple[Mask, Mask]:
        """Return the left and the right lung (z, y, x), with the bronchi in them; NotApplicable as `run`."""
        left, right, _, _ = self._looked_at(volume, progress)
        return left, right

    def _looked_at(self, volume: Volume, progress: Progress) -> tuple[Mask, Mask, Classes, Grid]:
        """Return both lungs, and what the network takes each sample of its grid for."""
        if volume.modality != "CT":
            raise NotApplicable(f"lungs are looked for on CT, not on {volume.modality or 'an unknown modality'}")
        grid = Grid.over(volume, _SPACING)
        hounsfield = grid.sample(volume.voxels)
        classes = self.classes(hounsfield, progress)
        progress(0.7, "choosing what is lung")
        field = lung_field(classes, hounsfield, _SPACING)
        if float(field.sum()) * float(np.prod(_SPACING)) / 1000.0 < _LEAST_ML:
            raise NotApplicable("no air-filled lung is in view")
        left, right = sides(field, classes, _SPACING)
        progress(0.8, "following the surface")
        tubes, unseen = (classes == AIRWAYS) & ~field, padding(hounsfield)
        fine = [on_the_scan(one, other, tubes, unseen, grid, volume) for one, other in ((left, right), (right, left))]
        return fine[0], fine[1] & ~fine[0], classes, grid

    def classes(self, hounsfield: Values, progress: Progress) -> Classes:
        """Return what the network takes each sample (z, y, x) for."""
        _, height, width = hounsfield.shape
        top, start = (max(0, _SMALLEST - n) // 2 for n in (height, width))
        ends = [(top, max(0, _SMALLEST - height - top)), (start, max(0, _SMALLEST - width - start))]
        voxels = np.pad(normalised(hounsfield), [(0, 0), *ends], constant_values=-1.0)
        found = np.empty(hounsfield.shape, np.uint8)
        count = self._network.settings.in_channels
        for first in range(0, len(voxels), self._together):
            last = min(first + self._together, len(voxels))
            stacks = np.stack([neighbours(voxels, z, count) for z in range(first, last)])
            with torch.inference_mode():
                images = torch.from_numpy(stacks).to(self._device).contiguous(memory_format=torch.channels_last)
                logits = self._network(images)  # channels last: a third less time on a processor
            seen = logits.argmax(dim=1).byte().cpu().numpy()
            found[first:last] = seen[:, top : top + height, start : start + width]
            progress(0.05 + 0.6 * last / len(voxels), "looking at slices")
        return found


def load_lungs(device: str) -> LungModel:
    """Return the model with its weights on the torch *device*, for models that look within lungs."""
    return LungModel(load_network(_WEIGHTS, device, UNet), device)


def load(device: str) -> Model:
    """Return the model with its weights on the torch *device*."""
    return load_lungs(device)
