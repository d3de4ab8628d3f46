"""Pages on runs for a browser of this machine: a table that is loaded anew, and the report of each run.

Only this machine is answered, and only under its own name: a page of a stranger that makes a browser ask here under
another name (DNS rebinding) gets nothing. Nothing can be changed through it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ftcli.core.errors import ConfigError, FtcliError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.untrusted.printable import printable
from ftcli.reports.overview import COLUMNS, Glance, folders, glances
from ftcli.reports.page_file import PAGE, content, rendered
from ftcli.reports.run_record import run_record

HOST = "127.0.0.1"
RELOAD_SECONDS = 5
_NAMES = ("localhost", HOST)
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


def serve(place: Path, port: int, say: Callable[[str], None]) -> int:
    """Answer until a signal ends it.

    Raises:
        ConfigError: the port is taken, or not to be had.
    """
    server = server_at(place, port)
    say(f"watching {place} at http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        server.shutdown()
        server.server_close()
    return EXIT_DONE


def server_at(place: Path, port: int) -> ThreadingHTTPServer:
    """A server of the runs in a folder; port 0 takes one that is free.

    Raises:
        ConfigError: the port is taken, or not to be had.
    """
    try:
        server = ThreadingHTTPServer((HOST, port), _Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(Problem(f"--serve {port}", f"cannot be served: {error}", "name another port")) from None
    server.place = place  # type: ignore[attr-defined]
    return server


class _Handler(BaseHTTPRequestHandler):
    server_version = "ftcli"
    sys_version = ""

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in _NAMES:
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        place: Path = self.server.place  # type: ignore[attr-defined]
        name = unquote(self.path.partition("?")[0]).removeprefix("/")
        if not name:
            self._answer(_table(place, glances(place)))
        elif (run := folders(place).get(name)) is not None:
            self._report(run, name)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _report(self, run: Path, name: str) -> None:
        try:
            self._answer(content([run_record(run, name)], PAGE))
        except FtcliError as error:
            self._answer(printable(str(error)), "text/plain")

    def _answer(self, page: str, kind: str = "text/html") -> None:
        """Send a page, which states its own policy, or a plain text."""
        body = page.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(body)))
        for key, value in (_HEADERS | {"Content-Type": f"{kind}; charset=utf-8"}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: each reload would be a line."""


def _table(place: Path, found: list[Glance]) -> str:
    rows = [(quote(each.name), each.name, each.cells()[1:]) for each in reversed(found)]
    return rendered("table.html.jinja", place=str(place), seconds=RELOAD_SECONDS, head=COLUMNS, rows=rows)
