"""The worker's commands: `worker` (one Celery worker), `run` (folder in, results out, no server) and `preview`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from node.bootstrap import build
from node.cli.common import Home, Parent, run_app
from node.foundation import settings_for
from node.processes import end_with_parent
from workers.ear import Ear
from workers.preview import preview_command
from workers.standalone import run_command
from workers.tasks import make_worker_app

app = typer.Typer(name="pacs-node", pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True)
app.command(name="run")(run_command)
app.command(name="preview")(preview_command)


class Queue(StrEnum):
    """Which doorbells a worker hears."""

    GPU = "gpu"
    IO = "io"


@app.command()
def worker(
    queue: Annotated[Queue, typer.Option(help="gpu: run models; io: deliver results.")],
    home: Home = None,
    parent: Parent = 0,
) -> None:
    """Run one worker until it is stopped; SIGTERM lets it finish its work first."""
    settings = settings_for(home, f"worker-{queue}")
    if parent:
        end_with_parent(parent)
    services = build(settings, f"worker-{queue}")
    ear = Ear(services.broker, str(queue))
    celery = make_worker_app(services, ear)
    ear.watch()
    # One slot a worker, in its own process: the model runs in a child, so Celery's pool would only add another.
    celery.worker_main([
        "worker", "--queues", str(queue), "--pool", "solo", "--concurrency", "1", "--loglevel", "WARNING",
        "--without-gossip", "--without-mingle", "--hostname", f"{queue}-{services.worker.rsplit(':', 2)[1]}@%h",
    ])  # fmt: skip


def main() -> None:
    """Run the worker's command line."""
    run_app(app)
