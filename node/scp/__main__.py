"""`python -m node.scp`: the DICOM listener alone, which is what `pacs-node scp` becomes.

It imports neither broker nor encoders nor page: a listener shall be small, and back soon after a crash.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

from node.errors import NodeError, exit_code
from node.filing import LONGEST
from node.foundation import lay, settings_for
from node.processes import end_with_parent, stop_event
from node.scp.sendings import Sendings
from node.scp.server import start_scp
from node.settings import Settings

_LOOK = 1.0  # seconds; a signal that another thread of a traced process was given wakes the main thread only then


def main() -> None:
    """Listen until told to stop."""
    parser = argparse.ArgumentParser(prog="pacs-node scp", description="Run the DICOM listener alone.")
    parser.add_argument("--home", type=Path, help="the node's folder (default: PACS_NODE_HOME, else ./pacs-node-home)")
    parser.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    try:
        if asked.parent:
            end_with_parent(asked.parent)
        listen(settings_for(asked.home, "scp"))
    except NodeError as why:
        sys.stderr.write(f"{type(why).__name__}: {why}\n")
        sys.exit(exit_code(why))


def listen(settings: Settings) -> None:
    """Take instances in until SIGTERM or SIGINT; then let the peers that are sending finish."""
    stopped = stop_event()
    base = lay(settings)
    _raise_descriptors()
    intake = base.intake()
    # A study shall not look quiet because its rows are late.
    intake.open_logbook(settings.journal_mib << 20, longest=min(LONGEST, settings.quiet_period.total_seconds() / 4))
    sendings = Sendings(base.database, base.now, intake.latest)
    door = start_scp(settings, intake, sendings)
    while not stopped.wait(_LOOK):
        pass
    door.shutdown()
    door.finish(limit=settings.drain_time.total_seconds())
    if intake.logbook is not None:
        intake.logbook.close(limit=5.0)
    sendings.rest(limit=2.0)  # what is not told by then is void with this process


def _raise_descriptors() -> None:
    """Take as many descriptors as the system allows: each connection at the door needs one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
