"""What a Structured Report says of tracked findings, and how two reports differ. Free text is never looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

_TRACKING_UID = Code("112040", "DCM", "")
_GROUP = Code("125007", "DCM", "")
_FINDING = Code("121071", "DCM", "")
_SITE = Code("363698007", "SCT", "")
_EVALUATIONS = Code("C0034375", "UMLS", "")  # TID 1500, Qualitative Evaluations
#: "Absent" of CID 240, as it stands now and as it stood before.
_ABSENT = (Code("272519000", "SCT", ""), Code("2667000", "SCT", ""))
_UNITS = {"mL": "ml", "cm3": "ml", "mm2": "mm2"}  # UCUM: the same unit by another name

Name = tuple[str, str]  # scheme and value of a code


@dataclass(kw_only=True, slots=True)
class Finding:
    """All that one report says under one Tracking UID."""

    label: str = ""  # the code meaning of what was found
    findings: set[Name] = field(default_factory=set)
    sites: set[Name] = field(default_factory=set)
    numbers: dict[tuple[Name, str], set[Decimal]] = field(default_factory=dict)  # by concept and unit (UCUM)
    names: dict[Name, str] = field(default_factory=dict)  # code meanings of the concepts
    absent: bool = False  # coded: what was found is not there


@dataclass(kw_only=True, slots=True)
class Report:
    """The coded content of one report."""

    verified: bool
    findings: dict[str, Finding]  # by Tracking UID
    evaluations: set[tuple[Name, Name]]  # (concept, value) outside any group


def read_report(dataset: Dataset) -> Report:
    """Return the coded content of a Structured Report (PS3.3 C.17.3), whatever its template."""
    report = Report(verified=dataset.get("VerificationFlag") == "VERIFIED", findings={}, evaluations=set())
    for item, path in _items(dataset):
        if item.get("ValueType") == "CONTAINER" and _concept(item) == _GROUP:
            _read_group(item, report.findings)
        elif item.get("ValueType") == "CODE" and path and path[-1] == _name(_EVALUATIONS):
            report.evaluations.add((_name(_concept(item)), _name(_value(item))))
    return report


def _items(root: Dataset) -> Iterator[tuple[Dataset, tuple[Name, ...]]]:
    """Yield every content item with the concepts of the containers that it lies in."""
    waiting: list[tuple[Dataset, tuple[Name, ...]]] = [(root, ())]
    while waiting:
        item, path = waiting.pop()
        if path or item is not root:
            yield item, path
        inside = (*path, _name(_concept(item))) if item.get("ConceptNameCodeSequence") else path
        waiting += [(child, inside) for child in item.get("ContentSequence") or ()]


def _read_group(group: Dataset, findings: dict[str, Finding]) -> None:
    children = list(group.get("ContentSequence") or ())
    uids = [str(c.get("UID") or "") for c in children if _concept(c) == _TRACKING_UID]
    if not uids or not uids[0]:
        return
    found = findings.setdefault(uids[0], Finding())
    coded = [item for item in children if item.get("ValueType") == "CODE"]
    denied = [_concept(item) for item in coded if _value(item) in _ABSENT]
    for item in coded:
        if _value(item) not in _ABSENT:
            _read_code(item, found)
    found.absent = found.absent or any(one == _FINDING or _name(one) in found.findings for one in denied)
    for item in children:
        if item.get("ValueType") == "NUM":
            _read_number(item, found)


def _read_code(item: Dataset, found: Finding) -> None:
    concept, value = _concept(item), _value(item)
    if concept == _FINDING:
        found.findings.add(_name(value))
        found.label = found.label or _meaning(item, "ConceptCodeSequence")
    elif concept == _SITE:
        sides = [_value(child) for child in item.get("ContentSequence") or () if child.get("ValueType") == "CODE"]
        found.sites |= {_name(value), *map(_name, sides)}


def _read_number(item: Dataset, found: Finding) -> None:
    for measured in item.get("MeasuredValueSequence") or ():
        unit = str((measured.get("MeasurementUnitsCodeSequence") or [Dataset()])[0].get("CodeValue") or "")
        name = _name(_concept(item))
        found.names[name] = _meaning(item, "ConceptNameCodeSequence")
        key = (name, _UNITS.get(unit, unit))
        found.numbers.setdefault(key, set()).add(_decimal(measured.get("NumericValue")))


def _decimal(value: object) -> Decimal:
    try:
        return Decimal(str(value).strip()).normalize()
    except InvalidOperation:
        return Decimal("NaN")


def _code(item: Dataset) -> Code:
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or ""
    return Code(str(value), str(item.get("CodingSchemeDesignator") or ""), "")


def _concept(item: Dataset) -> Code:
    return _code((item.get("ConceptNameCodeSequence") or [Dataset()])[0])


def _value(item: Dataset) -> Code:
    return _code((item.get("ConceptCodeSequence") or [Dataset()])[0])


def _meaning(item: Dataset, keyword: str) -> str:
    text = str((item.get(keyword) or [Dataset()])[0].get("CodeMeaning") or "")
    return "".join(c for c in text if c.isprintable())[:64]


def _name(code: Code) -> Name:
    """Return scheme and value."""
    return code.scheme_designator, code.value


def differences(ours: Report, theirs: Report) -> list[str]:
    """Return what *theirs* changes of *ours*, one line each; none where every measurement and finding is equal."""
    lines: list[str] = []
    for uid, mine in ours.findings.items():
        other = theirs.findings.get(uid)
        what = mine.label or "a finding"
        if other is None or other.absent:
            lines.append(f"{what}: {'said to be absent' if other else 'left out'}")
            continue
        lines += [f"{what}: another finding"] * (mine.findings != other.findings)
        lines += [f"{what}: another site"] * (mine.sites != other.sites)
        lines += _numbers_changed(what, mine, other)
    added = [theirs.findings[uid] for uid in theirs.findings if uid not in ours.findings]
    lines += [f"{one.label or 'a finding'}: added" for one in added]
    count = len(ours.evaluations ^ theirs.evaluations)
    return [*lines, *([f"{count} qualitative evaluation{'s' * (count > 1)} differ"] * bool(count))]


def _numbers_changed(what: str, ours: Finding, theirs: Finding) -> Iterator[str]:
    for key in sorted({*ours.numbers, *theirs.numbers}):
        name, unit = key
        mine, other = ours.numbers.get(key, set()), theirs.numbers.get(key, set())
        if mine != other:
            meaning = ours.names.get(name) or theirs.names.get(name) or "a measurement"
            yield f"{what}: {meaning} {_values(mine)} {unit} -> {_values(other)} {unit}"


def _values(values: set[Decimal]) -> str:
    return ", ".join(f"{value:f}" for value in sorted(values)) or "none"
