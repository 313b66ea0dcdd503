"""Left and right lung on chest CT."""

from __future__ import annotations

from models.contract import Findings, Model, Progress, Segment, Volume
from models.lungs import segment_lungs


class LungModel:
    """Segments the lungs; works on the CPU whatever the device, and gives the same voxels every time."""

    def run(self, volume: Volume, progress: Progress) -> Findings:
        """Return a segment for each lung in view; NotApplicable where there is none."""
        lungs = segment_lungs(volume, progress)
        segments = tuple(
            Segment(key=key, mask=mask, volume_ml=float(mask.sum()) * volume.voxel_ml)
            for key, mask in (("left-lung", lungs.left), ("right-lung", lungs.right))
            if mask.any()
        )
        return Findings(segments=segments, remarks=lungs.remarks)


def load(device: str) -> Model:  # noqa: ARG001  # the contract's door; these filters run on the CPU
    """Return the model."""
    return LungModel()
