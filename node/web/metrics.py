"""Figures for Prometheus, read from the tables at each scrape; nothing in them says who a patient is."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from node.db import breakers, jobs, results, studies, verdicts
from node.db.session import Database
from node.domain.job import JobState
from node.domain.peer import BreakerState
from node.verdicts import model_version

_MODEL = ("model", "version")


class _Tables(Collector):
    """The figures of one view of the tables."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def collect(self) -> Iterator[Metric]:
        """Yield each family with all its samples."""
        yield from _states(self._session)
        yield from _peers(self._session)
        yield from _verdicts(self._session)


def show(database: Database, _: Request) -> Response:
    """Answer a scrape in the text format of Prometheus, version 0.0.4."""
    registry = CollectorRegistry()  # of this scrape alone: the tables are the truth, not what a process remembers
    with database.reading() as session:
        registry.register(_Tables(session))
        text = generate_latest(registry)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def _states(session: Session) -> Iterator[Metric]:
    by_state = jobs.count_by_state(session)
    family = GaugeMetricFamily("pacs_node_jobs", "Jobs by state.", labels=("state",))
    for state in JobState:
        family.add_metric((str(state),), by_state.get(state, 0))
    yield family
    family = GaugeMetricFamily("pacs_node_studies", "Studies by state.", labels=("state",))
    for name, count in sorted(studies.count_by_state(session).items()):
        family.add_metric((name,), count)
    yield family


def _peers(session: Session) -> Iterator[Metric]:
    away = GaugeMetricFamily("pacs_node_peer_away", "1 where nothing is sent to the peer now.", labels=("peer",))
    for breaker in breakers.all_of(session):
        away.add_metric((breaker.peer,), breaker.state is not BreakerState.CLOSED)
    yield away
    family = GaugeMetricFamily("pacs_node_deliveries", "Unverified deliveries by state.", labels=("peer", "state"))
    for peer, states in sorted(results.count_open_by_peer(session).items()):
        for state, count in sorted(states.items()):
            family.add_metric((peer, state), count)
    yield family


def _verdicts(session: Session) -> Iterator[Metric]:
    total = CounterMetricFamily("pacs_node_verdicts", "Verdicts ever recorded.", labels=(*_MODEL, "kind"))
    by_version: dict[tuple[str, str, str], int] = {}
    for (model, digest, kind), count in verdicts.count_by_kind(session).items():
        key = (model, model_version(model, digest), kind)
        by_version[key] = by_version.get(key, 0) + count
    for key, count in by_version.items():
        total.add_metric(key, count)
    yield total
    delivered = GaugeMetricFamily("pacs_node_delivered_jobs", "Jobs of which a peer took a result.", labels=_MODEL)
    judged = GaugeMetricFamily("pacs_node_judged_jobs", "Jobs with a judgement that counts.", labels=_MODEL)
    dice = GaugeMetricFamily("pacs_node_verdict_dice", "Median Dice of the judgements that count.", labels=_MODEL)
    volume = GaugeMetricFamily(
        "pacs_node_verdict_volume_change_percent", "Median change of volume by those judgements.", labels=_MODEL
    )
    for one in verdicts.model_figures(session):
        labels = (one.model, model_version(one.model, one.model_digest))
        delivered.add_metric(labels, one.delivered)
        judged.add_metric(labels, one.judged)
        if one.dice is not None:
            dice.add_metric(labels, one.dice)
        if one.volume_change is not None:
            volume.add_metric(labels, one.volume_change)
    yield from (delivered, judged, dice, volume)
    waiting = GaugeMetricFamily("pacs_node_verdicts_pending", "Received objects still to be looked at.")
    waiting.add_metric((), verdicts.count_pending(session))
    yield waiting
