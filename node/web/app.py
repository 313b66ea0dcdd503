"""The application: its routes, and how it starts and stops."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from node import __version__
from node.db import lookups
from node.db.session import Database
from node.settings import Settings
from node.store import Store
from node.web import metrics, words
from node.web.acts import Acts, Failures
from node.web.guard import Guard, Tokens
from node.web.live import Live
from node.web.views import Pages

log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_GRACE = 3  # seconds that requests under way are given when the server stops


def make_web_app(
    *, database: Database, store: Store, settings: Settings, now: Callable[[], datetime]
) -> Starlette:
    """Return the page over one node's tables and store; it answers only to loopback and to ``settings.web_host``."""
    templates = Jinja2Templates(env=_environment(settings))
    tokens = Tokens()
    live = Live(partial(_mark, database))
    pages = Pages(database=database, store=store, now=now, tokens=tokens, templates=templates)
    acts = Acts(database=database, now=now, tokens=tokens)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        live.stop()

    app = Starlette(
        routes=_routes(pages, acts, live),
        middleware=[Middleware(Guard, host=settings.web_host)],
        exception_handlers=Failures(database=database, templates=templates).by_kind(),
        lifespan=lifespan,
    )
    app.state.live = live
    return app


def _routes(pages: Pages, acts: Acts, live: Live) -> list[BaseRoute]:
    async def stream(_: Request) -> Response:
        headers = {"X-Accel-Buffering": "no"}  # a proxy that gathers bytes would hold every word back
        return StreamingResponse(live.stream(), media_type="text/event-stream", headers=headers)

    return [
        Route("/", pages.job_table),
        Route("/jobs", pages.job_table_part),
        Route("/studies", pages.study_table),
        Route("/studies/part", pages.study_table_part),
        Route("/job/{job_id}", pages.job),
        Route("/job/{job_id}/part", pages.job_part),
        Route("/job/{job_id}/pictures/{name}", pages.picture),
        Route("/job/{job_id}/retry", acts.retry, methods=["POST"]),
        Route("/job/{job_id}/cancel", acts.cancel, methods=["POST"]),
        Route("/models", pages.models),
        Route("/models/part", pages.models_part),
        Route("/metrics", partial(metrics.show, pages.database)),
        Route("/study/{study_uid}", pages.study),
        Route("/study/{study_uid}/part", pages.study_part),
        Route("/live", stream),
        Route("/health", acts.health),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
    ]


def _mark(database: Database) -> str:
    with database.reading() as session:
        return lookups.change_mark(session)


def _environment(settings: Settings) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update(words=words, ae_title=settings.ae_title, version=__version__)
    return environment


class _Server(uvicorn.Server):
    """A server that ends its event streams when it stops, and leaves the signal to its caller."""

    def __init__(self, config: uvicorn.Config, live: Live) -> None:
        super().__init__(config)
        self._live = live

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop, and do not raise the signal again afterwards, as uvicorn would: `serve` returns."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams first: uvicorn waits for every connection."""
        self._live.stop()
        await super().shutdown(sockets)


def serve(app: Starlette, *, host: str, port: int) -> None:
    """Serve *app*, made by `make_web_app`, until SIGTERM or SIGINT, then return within some seconds."""
    log.info("page served", extra={"address": f"http://{host}:{port}"})
    make_server(app, host=host, port=port).run()


def make_server(app: Starlette, *, host: str, port: int) -> uvicorn.Server:
    """Return a server that is not started yet; ``should_exit`` ends it."""
    config = uvicorn.Config(
        app, host=host, port=port, log_config=None, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=_GRACE, lifespan="on", ws="none",
    )  # fmt: skip
    return _Server(config, app.state.live)
