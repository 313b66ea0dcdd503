"""The tree of failures. Each is Transient or Permanent where it is raised; who can decide catches it.

NodeError
├── Transient            try again later: the same work may succeed
│   ├── StoreFull        the disk takes no more
│   ├── BrokerAway       the doorbell cannot be rung
│   ├── PeerAway         a peer does not answer, or asks us to come back later
│   │   └── PeerBusy     it is there, and asks us to come back later
│   ├── LeaseLost        another worker, or a person, has moved the job on
│   ├── Leaving          this worker has to go before its work is through
│   └── ChildDied        the inference process ended without an answer
│       └── OutOfMemory  it had not enough memory
│           └── GpuOutOfMemory   its GPU had not
└── Permanent            the same work will fail the same way
    ├── SettingsError    the configuration says something impossible
    ├── UnreadableInstance   the bytes are no DICOM instance that we can file
    ├── InputInvalid     the series cannot be read as a volume
    ├── ModelNotApplicable   the model says that the input is not its kind
    ├── OutputInvalid    a model's output or an encoded result fails its check
    ├── PeerRefused      a peer answered that it will never take this
    ├── BackupDamaged    a backup is not whole: nothing of it is used
    ├── IllegalMove      no job, study or delivery may go from here to there
    └── NotFound         there is no such job, study, peer or model
"""

from __future__ import annotations


class NodeError(Exception):
    """Root of every failure that the node raises on purpose; the message is meant for a person."""


class Transient(NodeError):
    """The same work may succeed later."""


class Permanent(NodeError):
    """The same work will fail in the same way again."""


class StoreFull(Transient):
    """The instance store takes no more bytes, or could not make them durable."""


class BrokerAway(Transient):
    """The broker does not answer; the table still knows everything."""


class PeerAway(Transient):
    """A peer does not answer, or answers that it should be asked again later."""


class PeerBusy(PeerAway):
    """A peer answers that it should be asked again later: nothing is wrong with the way to it."""


class LeaseLost(Transient):
    """The job has been moved on by somebody else; what this worker made of it is void."""


class Leaving(Transient):
    """The worker was told to stop before the model was through: the job is given back uncounted."""


class ChildDied(Transient):
    """The inference process ended, or was ended, without an answer."""


class OutOfMemory(ChildDied):
    """The inference process had not enough memory for the model."""


class GpuOutOfMemory(OutOfMemory):
    """The GPU had not enough memory for the model."""


class SettingsError(Permanent):
    """The configuration holds a mistake; the message names its file, line or field."""


class UnreadableInstance(Permanent):
    """The bytes are not a DICOM instance that can be filed."""


class InputInvalid(Permanent):
    """The series cannot be read as a volume; the message says what and where."""


class ModelNotApplicable(Permanent):
    """The model says that this input is not of its kind.

    *picture* is a PNG of what it saw, empty where it shows nothing; *not_shown* says why what it shows cannot be kept.
    """

    def __init__(self, reason: str, *, picture: bytes = b"", not_shown: str = "") -> None:
        super().__init__(reason)
        self.picture, self.not_shown = picture, not_shown


class OutputInvalid(Permanent):
    """A model's output, or a result made from it, fails its check; nothing of it leaves the node."""


class PeerRefused(Permanent):
    """A peer answered that it will never take this object."""


class BackupDamaged(Permanent):
    """A backup is cut short, or its files are not those that its manifest names."""


class IllegalMove(Permanent):
    """No job, study or delivery may make this move."""


class NotFound(Permanent):
    """There is no such job, study, peer or model."""


#: What an exit code of our commands means; the first class that fits decides.
EXIT_CODES: tuple[tuple[type[NodeError], int], ...] = (
    (SettingsError, 2),
    (NotFound, 3),
    (PeerAway, 4),
    (PeerRefused, 4),
    (NodeError, 1),
)


def exit_code(why: NodeError) -> int:
    """Return with which code a command ends that failed so."""
    return next(code for kind, code in EXIT_CODES if isinstance(why, kind))
