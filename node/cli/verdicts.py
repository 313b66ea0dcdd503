"""The command that shows what radiologists say of the results."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape

from node.cli.common import AsJson, Home, app, open_node, out, print_json, table, time_of
from node.db import verdicts
from node.domain.verdict import ModelFigures, Verdict, VerdictKind, dice_text
from node.verdicts import model_version

_COLOURS = {VerdictKind.ACCEPTED: "green", VerdictKind.CORRECTED: "yellow", VerdictKind.REJECTED: "red"}


@app.command(name="verdicts")
def list_verdicts(
    home: Home = None,
    json: AsJson = False,
    model: Annotated[str, typer.Option(help="Only results of this model.")] = "",
    since: Annotated[datetime | None, typer.Option(help="Only verdicts received from this time on (UTC).")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to list, the newest first.")] = 50,
) -> None:
    """Tell what radiologists say of the results: figures for each model, then the verdicts."""
    services = open_node(home)
    since = since.replace(tzinfo=UTC) if since is not None and since.tzinfo is None else since
    with services.database.reading() as session:
        figures = verdicts.model_figures(session, model=model, since=since)
        found = verdicts.list_verdicts(session, model=model, since=since, limit=limit)
        pending = verdicts.count_pending(session)
    if json:
        models = [_as_json(one) for one in figures]
        print_json({"models": models, "verdicts": found, "pending": pending})
        return
    _print_figures(figures)
    _print_verdicts(found)
    if pending:
        out.print(f"{pending} objects are still to be looked at")


def _as_json(one: ModelFigures) -> dict[str, object]:
    return {
        "model": one.model, "version": model_version(one.model, one.model_digest), "model_digest": one.model_digest,
        "delivered": one.delivered, "judged": one.judged,
        **{str(kind): one.counts.get(kind, 0) for kind in VerdictKind},
        "median_dice": one.dice, "median_volume_change_percent": one.volume_change,
    }  # fmt: skip


def _print_figures(figures: list[ModelFigures]) -> None:
    lines = table(
        "model", "version", "delivered", "judged", "accepted", "corrected", "rejected", "median dice", "median volume"
    )
    for one in figures:
        counts = [str(one.counts.get(kind, 0)) for kind in _COLOURS]
        version = model_version(one.model, one.model_digest)
        medians = _dice(one.dice), _percent(one.volume_change)
        lines.add_row(one.model, version, str(one.delivered), str(one.judged), *counts, *medians)
    out.print(lines if figures else "no result was delivered yet")


def _print_verdicts(found: list[Verdict]) -> None:
    if not found:
        out.print("no verdicts")
        return
    lines = table("received", "job", "model", "verdict", "dice", "volume", "matched by", "from", "reason")
    for one in found:
        colour = _COLOURS.get(one.kind, "dim")
        lines.add_row(
            time_of(one.at), one.job_id[:8], one.model, f"[{colour}]{one.kind}[/]", _dice(one.dice),
            _percent(one.volume_change), one.matched_by, escape(one.calling_ae), escape(one.reason),
        )  # fmt: skip
    out.print(lines)


def _dice(value: float | None) -> str:
    return "-" if value is None else dice_text(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f} %"
