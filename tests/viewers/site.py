"""One web server on loopback for a viewer, its settings and the Orthanc behind it: one origin, as in a hospital."""

from __future__ import annotations

import http.client
import json
import mimetypes
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".dcm": "application/dicom"}
#: What a page needs to share memory with its workers, as OHIF does.
_ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_OHIF = {
    "routerBasename": "/", "showStudyList": True, "extensions": [], "modes": [], "customizationService": {},
    "maxNumberOfWebWorkers": 2, "showCPUFallbackMessage": False, "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": {
                "friendlyName": "Orthanc", "name": "orthanc", "wadoUriRoot": "/wado", "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web", "qidoSupportsIncludeField": False, "imageRendering": "wadors",
                "thumbnailRendering": "wadors", "enableStudyLazyLoad": True, "supportsWildcard": True,
                "omitQuotationForMultipartRequest": True, "bulkDataURI": {"enabled": True},
            },
        }
    ],
}  # fmt: skip


@dataclass
class Site:
    """What is served where."""

    folders: dict[str, Path]  # path prefix -> folder of files; "/" is OHIF's, and its pages have no file of their own
    orthanc_port: int
    port: int = 0
    pages: dict[str, bytes] = field(default_factory=dict)  # whole path -> HTML

    @property
    def address(self) -> str:
        """Where the site is."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(site: Site) -> Iterator[Site]:
    """Serve *site* on a free port of loopback."""
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    site.port = int(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.1,))
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        """Answer from the settings, the pages, Orthanc or a file."""
        path = self.path.split("?")[0]
        if path == "/app-config.js":
            self._answer(200, b"window.config = " + json.dumps(_OHIF).encode(), {"Content-Type": "text/javascript"})
        elif path in self.site.pages:
            self._answer(200, self.site.pages[path], {"Content-Type": "text/html; charset=utf-8"})
        elif path.startswith(("/dicom-web", "/wado")):
            self._pass_on()
        else:
            self._send_file(path)

    def _pass_on(self) -> None:
        """Ask Orthanc. With our Host and Forwarded it writes BulkDataURIs that lead back here."""
        headers = {name: self.headers[name] for name in ("Accept", "Content-Type", "Host") if name in self.headers}
        headers["Forwarded"] = f"proto=http;host={self.headers['Host']}"
        behind = http.client.HTTPConnection("127.0.0.1", self.site.orthanc_port, timeout=60)
        try:
            behind.request("GET", self.path, headers=headers)
            answer = behind.getresponse()
            kind = answer.getheader("Content-Type") or "application/octet-stream"
            self._answer(answer.status, answer.read(), {"Content-Type": kind})
        finally:
            behind.close()

    def _send_file(self, path: str) -> None:
        prefix = max((one for one in self.site.folders if path.startswith(one)), key=len)
        folder = self.site.folders[prefix].resolve()
        file = (folder / path.removeprefix(prefix)).resolve()
        if prefix == "/" and "." not in path.rsplit("/", 1)[-1]:
            file = folder / "index.html"  # a page of the application, which finds its own way
        if not file.is_relative_to(folder) or not file.is_file():
            self._answer(404, b"", {})
            return
        kind = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._answer(200, file.read_bytes(), {"Content-Type": kind})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        try:
            self.send_response(status)
            for name, value in {**headers, **_ISOLATION, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser has left the page

    def log_message(self, format: str, *args: object) -> None:  # the base class's name
        """Say nothing: what went wrong is in the browser's own list."""
