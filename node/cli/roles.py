"""Commands that run a role until they are stopped, and those that prepare a home."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading

import typer

from node.bootstrap import build, prepare
from node.cli.common import Home, Parent, app, out
from node.errors import SettingsError
from node.foundation import settings_for
from node.processes import end_with_parent, stop_event
from node.settings import FILE_NAME, load_settings
from node.supervisor import Supervisor

log = logging.getLogger(__name__)

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
_TEMPLATE = """\
# The node's configuration. Every setting is described in docs/configuration.md; environment variables
# (PACS_NODE_AE_TITLE, ...) win over this file. Check it with: pacs-node status
ae_title = "PACSAINODE"
port = 11112
quiet_period = 60          # seconds without a new image after which a study is complete

# Each scanner or PACS that may send studies here, or that results go to.
# [[peer]]
# name = "pacs"
# ae_title = "HOSPITALPACS"
# host = "10.0.0.5"
# port = 104

# Which model runs on which series. Without any [[rule]], chest CT goes to both lung models and back to its sender.
# [[rule]]
# name = "lungs"
# model = "ct-lung"
# modality = ["CT"]
# body_part = ["CHEST"]
# min_slices = 12
# destinations = ["pacs"]
"""


@app.command()
def init(home: Home = None) -> None:
    """Make a home folder with a commented pacs-node.toml and an empty database."""
    settings = load_settings(home)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o750)
    file = settings.home / FILE_NAME
    if not file.exists():
        file.write_text(_TEMPLATE, encoding="utf-8")
    prepare(settings)
    out.print(f"ready: edit [bold]{file}[/], then start the node with [bold]pacs-node up --home {settings.home}[/]")


@app.command()
def migrate(home: Home = None) -> None:
    """Bring the database to the newest schema; needed only where the roles run apart from `up`."""
    prepare(settings_for(home, "migrate"))
    out.print("the database has the newest schema")


@app.command()
def up(home: Home = None, parent: Parent = 0) -> None:
    """Run the whole node on this machine; Ctrl-C drains and stops it."""
    supervisor = Supervisor(settings_for(home, "up"))
    if parent:
        end_with_parent(parent)
    supervisor.run()


@app.command()
def scp(home: Home = None, parent: Parent = 0) -> None:
    """Run the DICOM listener alone."""
    words = ([] if home is None else ["--home", str(home)]) + (["--parent", str(parent)] if parent else [])
    os.execv(sys.executable, [sys.executable, "-m", "node.scp", *words])  # noqa: S606  # without all that is imported here


@app.command()
def sweep(home: Home = None, parent: Parent = 0) -> None:
    """Run the sweep alone: settle, plan, ring, take back."""
    stopped = _role(parent)
    settings = settings_for(home, "sweep")
    rounds = build(settings, "sweep").sweep()
    while not stopped.wait(settings.sweep_interval.total_seconds()):
        rounds.round()


@app.command(name="web")
def run_web(home: Home = None, parent: Parent = 0) -> None:
    """Run the web page alone."""
    from node import web  # its libraries would slow every other command down

    _role(parent)
    settings = settings_for(home, "web")
    services = build(settings, "web")
    page = web.make_web_app(
        database=services.database, store=services.store, settings=settings, now=services.now
    )
    web.serve(page, host=settings.web_host, port=settings.web_port)


@app.command(context_settings=_PASS_ON)
def worker(context: typer.Context) -> None:
    """Run one worker: `--queue gpu` runs models, `--queue io` delivers results."""
    _hand_over("worker", context.args)


@app.command(context_settings=_PASS_ON)
def run(context: typer.Context) -> None:
    """Run a model on a folder of DICOM files, without a server: SEG, SR and pictures come out."""
    _hand_over("run", context.args)


@app.command(context_settings=_PASS_ON)
def preview(context: typer.Context) -> None:
    """Write what a job's results are, or would be, under a profile: files, pictures, a tree. Nothing is sent."""
    _hand_over("preview", context.args)


def _role(parent: int) -> threading.Event:
    """Become a supervised process: stop on a signal, or when the supervisor is gone."""
    if parent:
        end_with_parent(parent)
    return stop_event()


def _hand_over(command: str, words: list[str]) -> None:
    """Become the worker's own command: models and codecs live in an extra that the node runs without."""
    if importlib.util.find_spec("torch") is None:
        raise SettingsError("this command needs the worker extra: pip install 'pacs-ai-node[worker]'")
    os.execv(sys.executable, [sys.executable, "-m", "workers", command, *words])  # noqa: S606
