"""Commands that look and change nothing."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from models import catalogue
from node import __version__, health
from node.bootstrap import Services
from node.cli.common import AsJson, Home, app, open_node, out, print_json, table, time_of
from node.db import chosen, events, jobs, lookups, pauses, results, studies, verdicts
from node.domain.job import Job, JobState
from node.domain.study import Study
from node.errors import BrokerAway
from node.health import needs
from node.story import tell
from node.supervisor import running_roles

_COLOURS = {
    JobState.DONE: "green", JobState.FAILED: "red", JobState.INPUT_INVALID: "yellow", JobState.RUNNING: "cyan",
    JobState.NOT_APPLICABLE: "yellow", JobState.CANCELLED: "dim", JobState.SUPERSEDED: "dim",
}  # fmt: skip


def job_row(job: Job) -> tuple[str, ...]:
    """Return a job as the cells of one line."""
    colour = _COLOURS.get(job.state, "default")
    stage = f" {job.progress:.0%} {job.stage}" if job.state is JobState.RUNNING else ""
    return (
        job.id[:8], f"…{job.study_uid[-12:]}", job.model, f"[{colour}]{job.state}[/]{escape(stage)}",
        str(job.attempts), time_of(job.updated_at), escape(job.reason),
    )  # fmt: skip


@app.command(name="jobs")
def list_jobs(
    home: Home = None,
    json: AsJson = False,
    state: Annotated[list[JobState] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the last changed first.")] = 50,
) -> None:
    """List jobs: one model asked of one revision of one study."""
    services = open_node(home)
    with services.database.reading() as session:
        found = jobs.list_jobs(session, states=state or (), limit=limit)
    if json:
        print_json(found)
        return
    lines = table("job", "study", "model", "state", "tries", "changed", "reason")
    for job in found:
        lines.add_row(*job_row(job))
    out.print(lines if found else "no jobs")


@app.command(name="job")
def show_job(job_id: str, home: Home = None, json: AsJson = False) -> None:
    """Tell the story of one job: its events, results and deliveries."""
    services = open_node(home)
    with services.database.reading() as session:
        job = jobs.get(session, job_id)
        story = events.story(session, job_id=job.id)
        made = results.results_of(session, job.id)
        deliveries = results.deliveries_of(session, job.id)
        given = verdicts.list_verdicts(session, job_ids=[job.id])
        expected = lookups.expected_end(session, job, now=services.now())
    pictures = sorted(services.store.pictures(job.id).glob("*.png"))
    if json:
        told = {"job": job, "expected": expected, "events": story, "results": made, "deliveries": deliveries}
        print_json({**told, "verdicts": given, "pictures": pictures})
        return
    out.print(f"[bold]{job.model}[/] on study {job.study_uid} (revision {job.revision})")
    out.print(f"{job.state} {escape(job.reason)}")
    if expected:
        out.print(f"results expected at {time_of(expected)}")
    if job.deadline_at:
        out.print(f"deadline {time_of(job.deadline_at)}{', missed' if job.late else ''}")
    for event in story:
        out.print(f"  {time_of(event.at)}  {event.what:<20} {escape(event.detail)}  [dim]{escape(event.who)}[/]")
    roles = {result.id: result.role for result in made}
    for delivery in deliveries:
        role = roles[delivery.result_id].upper()
        tries = f"{delivery.state} after {delivery.tries} tries"
        out.print(f"  {role:<4} to {delivery.peer}: {tries} {escape(delivery.reason)}")
    for result in made:
        out.print(f"  {result.role.upper():<4} {services.store.path(result.path)}")
    for verdict in given:
        said = f"verdict {verdict.kind} ({verdict.matched_by}): {verdicts.in_words(verdict)}"
        out.print(f"  {time_of(verdict.at)}  {escape(said)}  [dim]{escape(verdict.calling_ae)}[/]")
    for picture in pictures:
        out.print(f"  picture {picture}")


@app.command(name="studies")
def list_studies(
    home: Home = None, json: AsJson = False, limit: Annotated[int, typer.Option(min=1, help="How many.")] = 50
) -> None:
    """List studies, the last touched first; a settled study that no rule wants says why."""
    services = open_node(home)
    with services.database.reading() as session:
        found = studies.list_studies(session, limit=limit)
    if json:
        print_json(found)
        return
    lines = table("study", "description", "modality", "state", "rev", "series", "images", "last image", "reason")
    for one in found:
        lines.add_row(
            f"…{one.uid[-12:]}", escape(one.description), "/".join(one.modalities), str(one.state), str(one.revision),
            str(one.series), str(one.instances), time_of(one.last_at), escape(_reason(one)),
        )  # fmt: skip
    out.print(lines if found else "no studies")


def _reason(study: Study) -> str:
    lost = f"{study.lost} images are missing from the store: have them sent again" if study.lost else ""
    return "; ".join(part for part in (lost, study.reason) if part)


@app.command(name="study")
def show_study(uid: str, home: Home = None, json: AsJson = False) -> None:
    """Tell what became of one study: what each rule said of each series, its jobs, its events."""
    services = open_node(home)
    with services.database.reading() as session:
        study = studies.get_study(session, uid)
        series = studies.series_of(session, uid)
        choices = chosen.of_study(session, uid)
        asked = jobs.list_jobs(session, study_uid=uid)
        story = events.story(session, study_uid=uid)
    if json:
        print_json({"study": study, "series": series, "choices": choices, "jobs": asked, "events": story})
        return
    out.print(f"[bold]{study.uid}[/] {study.state}, revision {study.revision}: {escape(study.reason)}")
    for one in series:
        name = f"{one.number} {one.modality} {escape(one.description)}"
        out.print(f"  series {name}: {one.instances} images  [dim]{one.uid}[/]")
        for choice in (c for c in choices if c.series_uid == one.uid):
            out.print(f"    rule {choice.rule}: {escape(choice.reason) or '[green]taken[/] for ' + choice.model}")
    for job in asked:
        out.print("  job", *job_row(job))
    for event in story:
        out.print(f"  {time_of(event.at)}  {event.what:<20} {escape(event.detail)}  [dim]{escape(event.who)}[/]")


@app.command()
def explain(study: str, home: Home = None, json: AsJson = False) -> None:
    """Tell the whole story of a study (UID, its beginning, or accession number) and what a person should do next."""
    services = open_node(home)
    with services.database.reading() as session:
        uid = studies.find_uid(session, study)
        told = tell(session, uid, now=services.now(), quiet=services.settings.quiet_period)
    if json:
        print_json(told)
        return
    out.print(f"[bold]{told.study.uid}[/] is {told.study.state}, revision {told.study.revision}")
    for line in told.lines:
        who = f"  [dim]{escape(line.who)}[/]" if line.who else ""
        out.print(f"  {time_of(line.at)}  {escape(line.says)}{who}")
    for one in told.peers:
        states = ", ".join(f"{count} {state}" for state, count in one.states.items())
        why = f" ({one.reason})" if one.reason else ""
        out.print(f"  results of {one.model} for {one.peer}: {states}{escape(why)}")
    for title, sentences in (("waits for", told.waits_for), ("you should", told.next_steps)):
        for sentence in sentences:
            out.print(f"[bold]{title}[/]  {escape(sentence)}")


@app.command(name="models")
def list_models(json: AsJson = False) -> None:
    """List the models with their cards: purpose, limits, measured figures."""
    cards = catalogue.cards()
    if json:
        print_json(cards)
        return
    for card in cards:
        out.print(f"[bold]{card.name} {card.version}[/]  {escape(card.title)}: {escape(card.purpose)}")
        for limit in card.limits:
            out.print(f"  limit: {escape(limit)}")
        for data, measure, value in card.figures:
            out.print(f"  {escape(data)}: {escape(measure)} {value:g}")


@app.command()
def status(home: Home = None, json: AsJson = False) -> None:
    """Tell how the node does: processes, queues, jobs, deliveries, disk; exit code 1 where a person is needed."""
    services = open_node(home)
    facts = _facts(services)
    if json:
        print_json(facts)
    else:
        _print_status(services, facts)
    if facts["needs"]:
        raise typer.Exit(1)


def _facts(services: Services) -> dict[str, Any]:
    try:
        bells: dict[str, int] | str = services.broker.waiting()
    except BrokerAway as why:
        bells = str(why)
    home = health.Home(roles=running_roles(services.settings.home), doorbells=bells)
    with services.database.reading() as session:
        by_state = jobs.count_by_state(session)
        by_study = studies.count_by_state(session)
        by_peer = results.count_open_by_peer(session)
        halted = pauses.list_pauses(session)
        found = needs(session, services.store, services.settings, home, now=services.now())
    return {
        "version": __version__, "home": services.settings.home, "roles": home.roles, "studies": by_study,
        "jobs": by_state, "deliveries": by_peer, "doorbells": bells, "pauses": halted,
        "free_bytes": services.store.free_bytes(), "free_percent": round(services.store.free_percent(), 1),
        "needs": found,
    }  # fmt: skip


def _print_status(services: Services, facts: dict[str, Any]) -> None:
    settings = services.settings
    out.print(f"[bold]pacs-ai-node {__version__}[/]  {settings.ae_title} on port {settings.port}  home {settings.home}")
    out.print(f"page      http://{settings.web_host}:{settings.web_port}")
    out.print("roles     " + (", ".join(f"{name} ({pid})" for name, pid in facts["roles"].items()) or "none"))
    for what in ("studies", "jobs", "doorbells", "deliveries"):
        out.print(f"{what:<9} {_counts(facts[what])}")
    out.print(f"disk      {facts['free_bytes'] / 2**30:.1f} GiB free, {facts['free_percent']:g} %")
    for need in facts["needs"]:
        out.print(f"[yellow]look at[/]   {escape(need.says)}")
        out.print(f"          [dim]{escape(need.helps)}[/]")


def _counts(value: Any) -> str:
    if isinstance(value, str):
        return escape(value)
    return ", ".join(f"{name}: {count}" for name, count in value.items()) or "none"
