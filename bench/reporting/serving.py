"""The page of a store, served to this machine alone and made again whenever the store changes."""

from __future__ import annotations

import errno
import hashlib
import html
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from recscale.errors import RecscaleError, UsageError
from recscale.reporting.rendering import page_script, page_style, script_hash

HOST = "127.0.0.1"
DEFAULT_PORT = 8765
_SECONDS_BETWEEN_LOOKS = 2.0
_RECORDS = ("[!.]*/*/*/*.json", "[!.]*/*/*/trials/*.json")  # not in work folders, which come and go
_NAMES = ("127.0.0.1", "localhost")
Build = Callable[[str], bytes]  # a version -> the page of the store as it is now

_WAITING = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src '{hash}'; connect-src 'self'; base-uri 'none'; form-action 'none'">
<meta name="recscale-version" content="{version}">
<title>recscale report</title>
<style>{style}</style>
</head>
<body>
<header><h1>recscale report</h1>
<p>{words}</p>
<p class="quiet" id="recscale-live" role="status">Live: this page follows the store.</p>
</header>
<script>{script}</script>
</body>
</html>
"""


def version_of(store: Path) -> str:
    """Return a text that changes whenever a record of a store does: from names, sizes and times of its files."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _RECORDS for path in store.glob(pattern)):
        try:
            found = path.stat()
        except FileNotFoundError:  # replaced at this moment; the next look sees what came instead
            continue
        digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def waiting_page(version: str, words: str) -> bytes:
    """Return a page that says why there is no report yet, and asks again."""
    script = page_script(has_charts=False, is_live=True)
    return _WAITING.format(
        hash=script_hash(script.encode()),
        version=html.escape(version),
        words=html.escape(words),
        style=page_style(),
        script=script,
    ).encode(errors="backslashreplace")


@dataclass
class _Shown:
    version: str
    page: bytes


class LivePage:
    """The page of a store as it was last made; `refresh` makes it again if the store has changed.

    What recscale raises on purpose (no records yet, a broken one) becomes a page that says so.
    """

    def __init__(self, store: Path, build: Build) -> None:
        self.store = store
        self._build = build
        self._shown = _Shown("", b"")

    @property
    def version(self) -> str:
        """The version of the store that is shown."""
        return self._shown.version

    @property
    def content(self) -> bytes:
        """The page."""
        return self._shown.page

    def refresh(self) -> bool:
        """Make the page again if the store has changed; return whether it had."""
        version = version_of(self.store)
        if version == self._shown.version:
            return False
        try:
            page = self._build(version)
        except RecscaleError as error:
            page = waiting_page(version, str(error))
        self._shown = _Shown(version, page)  # at once: a request sees the old pair or the new one
        return True


def make_server(live: LivePage, port: int) -> ThreadingHTTPServer:
    """Return a server of a page on this machine's own address. Raises UsageError for a port that cannot be had."""
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is no port; expected a number from 0 to 65535 (0: any that is free)")
    try:
        return ThreadingHTTPServer((HOST, port), _handler(live))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} is in use; choose another: --port {port + 1}, or --port 0 for any") from None
        raise UsageError(f"port {port} cannot be opened: {error.strerror}; choose another: --port 0 for any") from None


def serve(live: LivePage, port: int | None, told: Callable[[str], None]) -> None:
    """Serve a page until it is interrupted, looking for changes of the store meanwhile; `told` gets the address.

    Raises UsageError for a port that cannot be had.
    """
    with make_server(live, DEFAULT_PORT if port is None else port) as server:
        live.refresh()
        ended = threading.Event()
        watching = threading.Thread(target=_watch, args=(live, ended), daemon=True)
        watching.start()
        told(f"the report is at http://{HOST}:{server.server_port}/ and follows {live.store}; Ctrl-C ends it")
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            told("no longer served")
        finally:
            ended.set()


def _watch(live: LivePage, ended: threading.Event) -> None:
    while not ended.wait(_SECONDS_BETWEEN_LOOKS):
        live.refresh()


def _handler(live: LivePage) -> type[BaseHTTPRequestHandler]:
    """Return the class that answers requests: the page, its version, and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        server_version = "recscale"
        sys_version = ""

        def do_GET(self) -> None:
            name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if name not in _NAMES:  # a page of elsewhere whose name was pointed here
                self._answer(403, "text/plain; charset=utf-8", b"this page is for this machine alone\n")
            elif self.path in ("/", "/report.html"):
                self._answer(200, "text/html; charset=utf-8", live.content)
            elif self.path == "/version":
                self._answer(200, "text/plain; charset=utf-8", live.version.encode())
            else:
                self._answer(404, "text/plain; charset=utf-8", b"there is only the report: /\n")

        def _answer(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of a request that went well; the page asks every two seconds."""
            if not str(args[1] if len(args) > 1 else "").startswith("2"):
                sys.stderr.write(f"recscale: {self.requestline!r}: {format % args}\n")

    return Handler
