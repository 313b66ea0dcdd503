"""The two things a person may ask of a job, and the answers to what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.templating import Jinja2Templates

from node.db import jobs
from node.db.session import Database
from node.errors import IllegalMove, LeaseLost, NotFound
from node.steering import cancel_job, retry_job
from node.web import words
from node.web.guard import HEADERS, Tokens

log = logging.getLogger(__name__)

WHO = "web"  # until people sign in, the page is all that the events can name

_NEXT_STEPS = {
    400: "Go back and try again.",
    403: "Open the job again and press the button there; nothing was changed.",
    404: "Look for it in the job table or among the studies.",
    405: "Open the page from the job table.",
    413: "Open the job again and press the button there; nothing was changed.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Acts:
    """What changes the table."""

    database: Database
    now: Callable[[], datetime]
    tokens: Tokens

    async def retry(self, request: Request) -> Response:
        """Run a job again, or send its results again."""
        job_id = request.path_params["job_id"]
        await self.tokens.check(request, "retry", job_id)
        await run_in_threadpool(retry_job, self.database, job_id, who=WHO, at=self.now())
        log.info("job retried", extra={"job_id": job_id, "who": WHO})
        return RedirectResponse(f"/job/{job_id}", status_code=303)

    async def cancel(self, request: Request) -> Response:
        """End a job, whoever holds it."""
        job_id = request.path_params["job_id"]
        await self.tokens.check(request, "cancel", job_id)
        await run_in_threadpool(cancel_job, self.database, job_id, who=WHO, at=self.now())
        log.info("job cancelled", extra={"job_id": job_id, "who": WHO})
        return RedirectResponse(f"/job/{job_id}", status_code=303)

    def health(self, _: Request) -> Response:
        """Say whether the database answers."""
        try:
            with self.database.reading() as session:
                jobs.count_by_state(session)
        except SQLAlchemyError:
            log.warning("the database does not answer", exc_info=True)
            return JSONResponse({"ok": False, "reason": "the database does not answer"}, status_code=503)
        return JSONResponse({"ok": True})


@dataclass(frozen=True, kw_only=True, slots=True)
class Failures:
    """The pages for what went wrong: what it was, and what a person can do next."""

    database: Database
    templates: Jinja2Templates

    def refused(self, request: Request, why: Exception) -> Response:
        """A request that HTTP itself has words for."""
        status, detail = (why.status_code, why.detail) if isinstance(why, HTTPException) else (500, str(why))
        what = "There is no such page." if detail == "Not Found" else detail
        return self._page(request, status, what, _NEXT_STEPS.get(status, "Go back and try again."))

    def not_found(self, request: Request, why: Exception) -> Response:
        """An id that nothing has."""
        return self._page(request, 404, _as_sentence(why), _NEXT_STEPS[404])

    def illegal(self, request: Request, why: Exception) -> Response:
        """A move that the job cannot make from where it stands."""
        job_id = request.path_params["job_id"]
        with self.database.reading() as session:
            job = jobs.get(session, job_id)
        return self._page(request, 409, _as_sentence(why), words.what_next(job), job_id=job_id)

    def overtaken(self, request: Request, why: Exception) -> Response:
        """The job moved on between our look and our act."""
        what = f"The job moved on while you looked at it: {why}."
        return self._page(request, 409, what, "See where it stands now.", job_id=request.path_params["job_id"])

    def no_database(self, request: Request, why: Exception) -> Response:
        """The database does not answer; nothing was changed."""
        log.error("the database does not answer", exc_info=why)
        return self._page(
            request, 503, "The database does not answer; nothing was changed.",
            "Try again in a moment. If it stays so, see the log of the web process and the state of the database.",
        )  # fmt: skip

    def broken(self, request: Request, _: Exception) -> Response:
        """A mistake of ours; the server logs its trace."""
        page = self._page(request, 500, "The page could not be made.", "The log of the web process says why.")
        page.headers.update(HEADERS)  # Starlette answers this one from outside of the guard
        return page

    def by_kind(self) -> dict[int | type[Exception], Callable[[Request, Exception], Response]]:
        """Return which failure is answered by which page."""
        return {
            HTTPException: self.refused, NotFound: self.not_found, IllegalMove: self.illegal,
            LeaseLost: self.overtaken, SQLAlchemyError: self.no_database, Exception: self.broken,
        }  # fmt: skip

    def _page(self, request: Request, status: int, what: str, next_step: str, *, job_id: str = "") -> Response:
        facts = {"status": status, "what": what, "next_step": next_step, "job_id": job_id}
        return self.templates.TemplateResponse(request, "message.html", facts, status_code=status)


def _as_sentence(why: Exception) -> str:
    text = str(why)
    return f"{text[:1].upper()}{text[1:]}."
