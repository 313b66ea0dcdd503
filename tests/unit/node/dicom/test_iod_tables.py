"""The gate's tables of required attributes are those of the standard, as the encoding library ships it.

``python -m tests.unit.node.dicom.test_iod_tables`` writes them anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from highdicom import _standard_utils as standard

FILE = Path(__file__).resolve().parents[4] / "node" / "dicom" / "gate" / "iods.json"
CLASSES = (
    "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.10008.5.1.4.1.1.30",
    "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.88.59",
)  # fmt: skip
DEEPEST = 2  # sequences that are entered: deeper ones are the validators' work


def tables() -> dict[str, dict[str, str]]:
    """For each class: path of every type 1 and type 2 attribute of its mandatory modules."""
    iods, modules, of_class = (
        standard.get_iod_module_map(), standard.get_module_attribute_map(), standard.get_sop_class_iod_map(),
    )  # fmt: skip
    made = {}
    for uid in CLASSES:
        mandatory = [module["key"] for module in iods[of_class[uid]] if module["usage"] == "M"]
        mandatory = [key for key in mandatory if key != "sr-document-content"]  # what is due depends on the value type
        attributes = [one for key in mandatory for one in modules[key] if wanted(one)]
        paths = {".".join([*one["path"], one["keyword"]]): one["type"] for one in attributes}
        made[uid] = dict(sorted(paths.items()))
    return made


def wanted(one: dict[str, Any]) -> bool:
    """Whether the table holds it; functional groups may stand in either of two places."""
    groups = {"SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"}
    return one["type"] in ("1", "2") and len(one["path"]) <= DEEPEST and not groups & set(one["path"])


def test_the_tables_are_those_of_the_standard() -> None:
    """A new edition in the library shows here first."""
    assert json.loads(FILE.read_text(encoding="ascii")) == tables()


if __name__ == "__main__":
    FILE.write_text(json.dumps(tables(), indent=0) + "\n", encoding="ascii")
