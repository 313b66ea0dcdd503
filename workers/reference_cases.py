"""The series of the test data that models are evaluated on, with what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract import Mask, Volume
from models.evaluate.labels import read_label

_OTHERS = {".json", ".md", ".nrrd", ".mha", ".gz"}  # what lies beside the images of a case
_BY_EYE = 10.0  # mm round a middle that is known to 5 mm: a mark whose centre lies there is on the nodule


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One series of the test data, with what is known of it."""

    name: str  # folder or file below the data folder
    lungs: str = ""  # label file
    left: tuple[int, ...] = ()  # label values of the left lung; without left and right, it tells both lungs as one
    right: tuple[int, ...] = ()
    nodules: str = ""  # label file; each component is a nodule
    nodule_at: tuple[float, float, float] | None = None  # (L, P, S) of the middle of the only nodule, by eye
    tumour: str = ""  # label file of a mass: too large for a nodule, so a mark there is neither right nor false
    unread: bool = False  # there are nodules or a tumour, but nobody says where: marks are not judged
    other_body: bool = False  # no lung in view: nothing may be drawn
    phase: str = ""  # of contrast, as its header or page says: "none", or "contrast" where no more is said
    repeats: str = ""  # the case whose patient this one shows again


_SMALL = "ct-chest-elastix-small"
_VARIANTS = (
    "big-endian", "charset-japanese", "deflated", "duplicates-and-shuffled-names", "localizer-in-series",
    "missing-slices", "no-geometry", "per-slice-rescale", "rows-flipped",
)  # fmt: skip
_OTHER_BODIES = (
    "ct-abdomen-totalseg-dicom/dicom", "ct-head-phantom-tilt/dicom", "ct-multiframe-vs-classic-phantom/classic",
    "ct-multiframe-vs-classic-phantom/multiframe", "malformed/J2K_pixelrep_mismatch.dcm", "petctmr-sts-002/ct",
    "petctmr-sts-002/pet", "petctmr-sts-002/mr_t1", "mr-brain1-tumour/dicom", "mr-epi-4d-timeseries/dicom",
    "enhanced-mr/emri_small.dcm", "enhanced-mr/philips-fieldmap.dcm", "other-objects/cr-chest.dcm",
    "other-objects/rtdose.dcm", "other-objects/us-rgb.dcm", "other-objects/us-palette.dcm",
    "other-objects/sc-rgb-rle-2frame.dcm",
)  # fmt: skip

CASES = (
    Case(
        name="ct-chest-lung1-001/dicom", lungs="ct-chest-lung1-001/label-lungs.nrrd", left=(1,), right=(2,),
        tumour="ct-chest-lung1-001/label-gtv.nrrd",
    ),
    Case(
        name="ct-chest-lidc-0001-slab/dicom", lungs="ct-chest-lidc-0001-slab/label-lungs-estimate.nrrd",
        nodules="ct-chest-lidc-0001-slab/label-nodules.nrrd", phase="contrast",
    ),
    Case(
        name="ct-chest-r01-001-every7th/dicom", lungs="ct-chest-r01-001-every7th/label-lungs-estimate.nrrd",
        unread=True, phase="contrast",
    ),
    Case(name=f"{_SMALL}/dicom", lungs=f"{_SMALL}/label-right-lung.nrrd", right=(1,)),
    Case(name="ct-chest-ibsi-pat1/dicom", tumour="ct-chest-ibsi-pat1/label-gtv.nii.gz"),
    Case(name="ct-nodule-partsolid-crop/dicom", nodule_at=(184.5, 179.1, -259.0)),
    Case(
        name="ct-abdomen-totalseg-converted/dicom", lungs="ct-abdomen-totalseg-converted/label-multiorgan.nii.gz",
        left=(10, 11), right=(12, 13, 14),
    ),
    Case(name="ct-liver-3slice-seg/dicom"),
    Case(name="ct-orientations-a046441/axial.dcm", unread=True, phase="none"),
    Case(name="ct-orientations-a046441/coronal.dcm", unread=True, phase="none"),
    Case(name="ct-orientations-a046441/sagittal.dcm", unread=True, phase="none"),
    *(
        Case(name=name, other_body=True, phase="contrast" if name.startswith("ct-abdomen-totalseg-dicom") else "")
        for name in _OTHER_BODIES
    ),
    *(
        Case(
            name=f"derived-variants/{one}", lungs=f"{_SMALL}/label-right-lung.nrrd", right=(1,),
            repeats=f"{_SMALL}/dicom",
        )
        for one in _VARIANTS
    ),
)  # fmt: skip


def images_of(case: Case, data: Path) -> list[Path]:
    """Return the files of the case's images."""
    place = data / case.name
    if place.is_file():
        return [place]
    return [file for file in sorted(place.iterdir()) if file.is_file() and file.suffix not in _OTHERS]


def lungs_of(case: Case, data: Path, volume: Volume) -> Mapping[str, Mask]:
    """Return the lungs of the reference by name, on the grid of *volume*; "lungs" where sides are not told apart."""
    if not case.lungs:
        return {}
    label = read_label(data / case.lungs, volume)
    if not case.left and not case.right:
        return {"lungs": label > 0}
    sides = (("left-lung", case.left), ("right-lung", case.right))
    return {name: np.isin(label, values) for name, values in sides if values}


def nodules_of(case: Case, data: Path, volume: Volume) -> Mask | None:
    """Return the nodules of the reference on the grid of *volume*; None where nobody has looked for them."""
    if case.unread or case.other_body:
        return None
    if case.nodules:
        return read_label(data / case.nodules, volume) > 0
    nodules = np.zeros(volume.voxels.shape, dtype=bool)
    if case.nodule_at is not None:
        places = np.indices(nodules.shape).reshape(3, -1).T @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        nodules = np.linalg.norm(places - case.nodule_at, axis=1).reshape(nodules.shape) <= _BY_EYE
    return nodules


def tumour_of(case: Case, data: Path, volume: Volume) -> Mask:
    """Return the mass of the reference on the grid of *volume*; empty where there is none."""
    if not case.tumour:
        return np.zeros(volume.voxels.shape, dtype=bool)
    return read_label(data / case.tumour, volume) > 0
