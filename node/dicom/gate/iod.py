"""An instance against its information object definition: what must be there is there (PS3.3 annex A)."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from pydicom.dataset import Dataset

from node.domain.result import ResultRole
from node.errors import OutputInvalid


def check_iod(role: ResultRole, dataset: Dataset) -> None:
    """Refuse an instance that lacks an attribute of its mandatory modules: type 1 with a value, type 2 at least."""
    required = _tables().get(str(dataset.SOPClassUID))
    if required is None:
        raise OutputInvalid(f"{role}: instances of class {dataset.SOPClassUID} are not made here")
    for path, kind in required.items():
        *outer, keyword = path.split(".")
        for item in _items(dataset, outer):
            if keyword not in item:
                raise OutputInvalid(f"{role}: {path} is missing (type {kind})")
            if kind == "1" and item[keyword].is_empty:
                raise OutputInvalid(f"{role}: {path} is empty (type 1)")


def _items(dataset: Dataset, outer: list[str]) -> list[Dataset]:
    found = [dataset]
    for keyword in outer:
        found = [inner for item in found for inner in item.get(keyword) or []]
    return found


@cache
def _tables() -> dict[str, dict[str, str]]:
    """By SOP Class UID: attribute path to type, as tests/unit/node/dicom/test_iod_tables.py makes them."""
    return json.loads(files("node.dicom.gate").joinpath("iods.json").read_text(encoding="ascii"))  # type: ignore[no-any-return]
