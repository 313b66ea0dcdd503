"""Findings as files: how the inference process hands them to its parent."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from models.contract import Detection, Findings, Mask, Measures, Segment, ValueMap

_JSON, _NPZ = "findings.json", "masks.npz"


def save(folder: Path, findings: Findings) -> None:
    """Write *findings* into *folder*: numbers as JSON, masks as packed bits."""
    masks: dict[str, Any] = {}
    document = {
        "segments": [_segment(one, masks) for one in findings.segments],
        "detections": [_detection(one, masks) for one in findings.detections],
        "maps": [_map(one, masks) for one in findings.maps],
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
                Segment(
                    key=one["key"], mask=_unpack(one, masks), volume_ml=one["volume_ml"],
                    measures=_measures(one["measures"]),
                )
                for one in document["segments"]
            ),
            detections=tuple(
                Detection(
                    key=one["key"], mask=_unpack(one, masks), centre_mm=tuple(one["centre_mm"]),
                    diameter_mm=one["diameter_mm"], volume_ml=one["volume_ml"], score=one["score"], site=one["site"],
                    measures=_measures(one["measures"]),
                )
                for one in document["detections"]
            ),
            maps=tuple(ValueMap(key=one["key"], values=masks[one["values"]]) for one in document["maps"]),
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


def _measures(one: dict[str, Any] | None) -> Measures | None:
    if one is None:
        return None
    ends = {name: tuple(tuple(point) for point in one[name]) for name in ("long_ends", "short_ends")}
    return Measures(**{**one, **ends})


def _told(measures: Measures | None) -> dict[str, object] | None:
    return None if measures is None else asdict(measures)


def _map(one: ValueMap, masks: dict[str, Any]) -> dict[str, object]:
    name = f"map{len(masks)}"
    masks[name] = one.values
    return {"key": one.key, "values": name}


def _segment(one: Segment, masks: dict[str, Any]) -> dict[str, object]:
    said = {"key": one.key, "volume_ml": float(one.volume_ml), "measures": _told(one.measures)}
    return {**said, **_pack(one.mask, masks)}


def _detection(one: Detection, masks: dict[str, Any]) -> dict[str, object]:
    return {
        "key": one.key, "centre_mm": [float(v) for v in one.centre_mm], "diameter_mm": float(one.diameter_mm),
        "volume_ml": float(one.volume_ml), "score": float(one.score), "site": one.site,
        "measures": _told(one.measures), **_pack(one.mask, masks),
    }  # fmt: skip
