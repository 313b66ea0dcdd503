"""A performed procedure step: what a modality says of its own work (MPPS)."""

from __future__ import annotations

from enum import StrEnum


class StepState(StrEnum):
    """How far a step is; the words that PS3.3 C.4.14 has for it stand in `READ`."""

    IN_PROGRESS = "in progress"  #: the modality is at it
    COMPLETED = "completed"  #: it is through
    DISCONTINUED = "discontinued"  #: it broke off


#: Performed Procedure Step Status (0040,0252).
READ = {
    "IN PROGRESS": StepState.IN_PROGRESS,
    "COMPLETED": StepState.COMPLETED,
    "DISCONTINUED": StepState.DISCONTINUED,
}
