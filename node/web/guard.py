"""What keeps other sites out: which Host names are ours, who may post, and what a browser may load."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@]+)(:[0-9]{1,5})?")
_FORM_LIMIT = 4096  # bytes; a form of ours is a token of 64
_POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
#: What every answer carries.
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # "no-referrer" would make browsers post with the Origin "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Answers only to its own names, so that no foreign name can be pointed here (DNS rebinding); adds the headers."""

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        self.app = app
        self._names = _LOOPBACK | {host.lower(), f"[{host.lower()}]"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400 to a name that is not ours."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        # probes call /health by the address of the machine; it tells nothing but that we live
        if scope["path"] == "/health" or self._is_ours(Headers(scope=scope).get("host", "")):
            await self.app(scope, receive, send_with_headers)
        else:
            answer = PlainTextResponse("This name is not the node's: use the address in web_host.\n", status_code=400)
            await answer(scope, receive, send_with_headers)

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host.lower())
        return match is not None and match[1] in self._names


class Tokens:
    """Form tokens that only this process can make, each good for one verb on one job."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def make(self, verb: str, job_id: str) -> str:
        """Return the token for *verb* on *job_id*."""
        return hmac.new(self._secret, f"{verb} {job_id}".encode(), hashlib.sha256).hexdigest()

    async def check(self, request: Request, verb: str, job_id: str) -> None:
        """Refuse, with 403, a post that did not come from a form of this process's own pages."""
        _check_origin(request)
        form = parse_qs((await _short_body(request)).decode("ascii", "replace"))
        token = form.get("token", [""])[0]
        if not hmac.compare_digest(token.encode(), self.make(verb, job_id).encode()):
            raise HTTPException(403, "The form is older than this web process, or was not made by it.")


def _check_origin(request: Request) -> None:
    """Refuse a post of another site: a browser says where a form comes from, in one header or both."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    ours = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if site not in (None, "same-origin") or (origin is not None and origin.lower() != ours.lower()):
        raise HTTPException(403, "The request comes from another site.")


async def _short_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_LIMIT:
            raise HTTPException(413, "The form is too long.")
    return body
