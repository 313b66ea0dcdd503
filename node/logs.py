"""One logging set-up for every process: a line is words plus fields; UIDs yes, patient names never."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import PurePath
from typing import Any, TextIO, cast

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# pynetdicom and pydicom print header values, which may name a patient, at INFO and below.
_TALKATIVE = (
    "pynetdicom", "pydicom", "highdicom", "kombu", "amqp", "PIL", "sqlalchemy", "alembic", "asyncio", "httpx",
    "httpcore",
)  # fmt: skip


def set_up_logging(role: str, *, level: str = "INFO", form: str = "text", stream: TextIO | None = None) -> None:
    """Send every log line of this process to *stream* (stderr), marked with its *role*."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json(role) if form == "json" else _Text(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    # pydicom tells of a value that breaks its VR twice, by its logger and by `warnings`, and quotes it both times.
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pydicom\.")


class _Lossy:
    """A stream to which writing never fails: what the disk of the log does not take is lost, and nothing else is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            return self._stream.write(text)
        except OSError:  # there is nowhere left to say so; the page and `pacs-node status` show the disk
            return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lose_what_cannot_be_written() -> None:
    """Let this process, a role of a node, go on when the disk that its output goes to is full."""
    out, err = cast("Any", _Lossy(sys.stdout)), cast("Any", _Lossy(sys.stderr))
    sys.stdout, sys.stderr = out, err
    sys.__stdout__, sys.__stderr__ = out, err  # type: ignore[misc]  # Celery writes there


def failure(why: BaseException) -> str:
    """Return what an unforeseen exception is and where it arose, without its message, which may quote patient data."""
    frames = traceback.extract_tb(why.__traceback__)[-3:]
    places = " < ".join(f"{PurePath(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(why).__name__} at {places}" if places else type(why).__name__


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _clean(value: object) -> str:
    """One line, printable: what a peer sent must not forge a log line."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))


class _Text(logging.Formatter):
    def __init__(self, role: str) -> None:
        self.converter = time.gmtime
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)-7s " + role + " %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        record.message = _clean(record.message)
        fields = " ".join(f"{key}={_clean(value)}" for key, value in _fields(record).items())
        return f"{super().formatMessage(record)} {fields}".rstrip()


class _Json(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "role": self._role,
            "event": record.getMessage(),
            **{key: str(value) for key, value in _fields(record).items()},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
