"""Log lines: words and fields, one line each, never a patient's name."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from pydicom import Dataset

from node.logs import set_up_logging


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    """Give the root logger back as pytest set it up."""
    root, pydicom_log = logging.getLogger(), logging.getLogger("pydicom")
    handlers, level, its_level = root.handlers[:], root.level, pydicom_log.level
    yield
    root.handlers[:], root.level = handlers, level
    pydicom_log.setLevel(its_level)


def lines(form: str, *, level: str = "INFO") -> io.StringIO:
    """Set up logging into a text and return it."""
    stream = io.StringIO()
    set_up_logging("scp", level=level, form=form, stream=stream)
    return stream


def test_a_text_line_has_role_words_and_fields() -> None:
    """What grep needs."""
    stream = lines("text")
    logging.getLogger("node.test").info("kept %d", 3, extra={"study_uid": "2.25.1"})
    assert stream.getvalue().rstrip().endswith("INFO    scp kept 3 study_uid=2.25.1")


def test_a_json_line_is_one_object() -> None:
    """What a log collector needs; the traceback goes with it."""
    stream = lines("json")
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("node.test").exception("failed", extra={"job_id": "j"})
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["level"], said["role"], said["event"], said["job_id"]) == ("ERROR", "scp", "failed", "j")
    assert "ValueError: boom" in said["traceback"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_peer_sent_cannot_forge_a_line(form: str) -> None:
    """A line feed in an AE title or a reason stays inside its line."""
    stream = lines(form)
    hostile = "X\n2026-01-01 INFO scp all is well\x1b[2J\u2028"
    logging.getLogger("node.test").warning("refused %s", hostile, extra={"calling_ae": hostile})
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_libraries_that_print_headers_are_quiet_even_at_debug() -> None:
    """pynetdicom's own lines repeat data sets; ours at the same level are kept."""
    stream = lines("text", level="DEBUG")
    logging.getLogger("pynetdicom.events").info("(0010,0010) PN [CANARY^NAME]")
    logging.getLogger("pydicom").debug("CANARY^NAME")
    logging.getLogger("node.test").debug("ours")
    assert "CANARY" not in stream.getvalue()
    assert "ours" in stream.getvalue()


def test_a_value_that_breaks_its_vr_is_quoted_nowhere(recwarn: pytest.WarningsRecorder) -> None:
    """pydicom would print it twice, by its logger and as a warning: a step that a modality sends may hold any."""
    stream, ds = lines("text", level="DEBUG"), Dataset()
    ds.StudyInstanceUID = "CANARY^NAME"
    assert ds.StudyInstanceUID == "CANARY^NAME"
    assert "CANARY" not in stream.getvalue()
    assert not recwarn.list
