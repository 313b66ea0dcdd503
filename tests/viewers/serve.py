"""One origin for the viewer and the PACS behind it: static files, and DICOMweb passed on."""

from __future__ import annotations

import mimetypes
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONFIG = """window.config={routerBasename:'/',showStudyList:true,extensions:[],modes:[],customizationService:{},
maxNumberOfWebWorkers:2,showCPUFallbackMessage:false,investigationalUseDialog:{option:'never'},
defaultDataSourceName:'dicomweb',dataSources:[{namespace:'@ohif/extension-default.dataSourcesModule.dicomweb',
sourceName:'dicomweb',configuration:{friendlyName:'Orthanc',name:'orthanc',wadoUriRoot:'/wado',qidoRoot:'/dicom-web',
wadoRoot:'/dicom-web',qidoSupportsIncludeField:false,imageRendering:'wadors',thumbnailRendering:'wadors',
enableStudyLazyLoad:true,supportsWildcard:true,omitQuotationForMultipartRequest:true,bulkDataURI:{enabled:true}}}]};"""
_TYPES = {".wasm": "application/wasm", ".js": "text/javascript", ".mjs": "text/javascript", ".dcm": "application/dicom"}


@contextmanager
def served(folder: Path, pacs: str = "") -> Iterator[str]:
    """Serve *folder* on loopback, and what asks for DICOMweb from *pacs*; yield the address."""
    handler = type("Handler", (_Handler,), {"folder": folder, "pacs": pacs})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    pacs: str
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the library's name
        path = self.path.split("?")[0]
        if self.pacs and path.startswith(("/dicom-web", "/wado")):
            self._pass_on()
        elif path == "/app-config.js":
            self._send(200, "text/javascript", CONFIG.encode())
        else:
            self._file(path)

    def _file(self, path: str) -> None:
        file = (self.folder / path.lstrip("/")).resolve()
        if not file.is_relative_to(self.folder.resolve()) or not file.is_file():
            if "." in path.rsplit("/", 1)[-1]:
                self._send(404, "text/plain", b"no such file")
                return
            file = self.folder / "index.html"  # a single-page application: its own router reads the path
        kind = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._send(200, kind, file.read_bytes())

    def _pass_on(self) -> None:
        host = self.headers.get("Host", "")
        asked = urllib.request.Request(self.pacs + self.path)  # noqa: S310  # our own Orthanc on loopback
        for name in ("Accept", "Content-Type"):
            if self.headers.get(name):
                asked.add_header(name, self.headers[name])
        asked.add_header("Host", host)
        asked.add_header("Forwarded", f"proto=http;host={host}")  # else bulk data would be asked of another origin
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
                self._send(answer.status, answer.headers.get("Content-Type", ""), answer.read())
        except urllib.error.HTTPError as why:
            self._send(why.code, "text/plain", why.read())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind), ("Content-Length", str(len(body))),
            ("Cross-Origin-Opener-Policy", "same-origin"), ("Cross-Origin-Embedder-Policy", "require-corp"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:  # the tab was closed meanwhile
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""
