"""Findings as files: how the inference process hands them to its parent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from models.contract import Detection, Findings, Mask, Segment

_JSON, _NPZ = "findings.json", "masks.npz"


def save(folder: Path, findings: Findings) -> None:
    """Write *findings* into *folder*: numbers as JSON, masks as packed bits."""
    masks: dict[str, Any] = {}
    document = {
        "segments": [_segment(one, masks) for one in findings.segments],
        "detections": [_detection(one, masks) for one in findings.detections],
        "remarks": list(findings.remarks),
    }
    np.savez_compressed(folder / _NPZ, **masks)
    (folder / _JSON).write_text(json.dumps(document), encoding="utf-8")


def load(folder: Path) -> Findings:
    """Return the findings that `save` wrote into *folder*."""
    document = json.loads((folder / _JSON).read_text(encoding="utf-8"))
    with np.load(folder / _NPZ, allow_pickle=False) as masks:
        return Findings(
            segments=tuple(
                Segment(key=one["key"], mask=_unpack(one, masks), volume_ml=one["volume_ml"])
                for one in document["segments"]
            ),
            detections=tuple(
                Detection(
                    key=one["key"], mask=_unpack(one, masks), centre_mm=tuple(one["centre_mm"]),
                    diameter_mm=one["diameter_mm"], volume_ml=one["volume_ml"], score=one["score"], site=one["site"],
                )
                for one in document["detections"]
            ),
            remarks=tuple(document["remarks"]),
        )  # fmt: skip


def are_in(folder: Path) -> bool:
    """Return whether `save` has written into *folder*."""
    return (folder / _JSON).is_file() and (folder / _NPZ).is_file()


def keep(folder: Path, kept: Path) -> None:
    """Copy what `save` wrote into *folder* to *kept*."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in (_NPZ, _JSON):
        shutil.copyfile(folder / name, kept / name)


def _pack(mask: Mask, masks: dict[str, Any]) -> dict[str, object]:
    name = f"mask{len(masks)}"
    masks[name] = np.packbits(mask)
    return {"mask": name, "shape": list(mask.shape)}


def _unpack(one: dict[str, Any], masks: Any) -> Mask:
    shape = tuple(one["shape"])
    bits = np.unpackbits(masks[one["mask"]], count=int(np.prod(shape)))
    return bits.reshape(shape).astype(np.bool_)  # (slices, rows, columns)


def _segment(one: Segment, masks: dict[str, Any]) -> dict[str, object]:
    return {"key": one.key, "volume_ml": float(one.volume_ml), **_pack(one.mask, masks)}


def _detection(one: Detection, masks: dict[str, Any]) -> dict[str, object]:
    return {
        "key": one.key, "centre_mm": [float(v) for v in one.centre_mm], "diameter_mm": float(one.diameter_mm),
        "volume_ml": float(one.volume_ml), "score": float(one.score), "site": one.site, **_pack(one.mask, masks),
    }  # fmt: skip
