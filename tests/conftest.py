"""Fixtures that every room of the tests shares."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_PATIENCE = 20.0  # seconds for threads that are about to end
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than cores wait for each other busily: thrice as slow
os.environ.setdefault("PACS_NODE_JOURNAL_MIB", "32")  # of each of the many listeners that tests start


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember how the tests ended."""
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """A thread that a test left running would keep this process for ever: say where it stands, and end all the same."""
    main = threading.main_thread()
    for left in [one for one in threading.enumerate() if one is not main and not one.daemon]:
        left.join(_PATIENCE)
        if left.is_alive():
            sys.stderr.write(f"\nTHE TESTS LEFT A THREAD RUNNING: {left.name}\n")
            faulthandler.dump_traceback(file=sys.__stderr__)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(config.stash[_STATUS])


_STATUS = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real test data; the test skips, saying so, where there is none."""
    folder = Path(os.environ.get("PACS_NODE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no test data at {folder} (set PACS_NODE_TEST_DATA)")
    return folder.resolve()
