"""An address that answers in JSON: bounded, and never elsewhere than where it was typed.

What answers may be anyone's: an answer has a size and a time, and a redirection is an error, since it would send the
rows of a run and a key to a place that nobody named. This machine is asked without a proxy.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files

MOST_BYTES = 64 << 20
"""Of an answer: log-probabilities of an answer of thousands of tokens have some MiB."""
TIMEOUT_SECONDS = 300.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Refused(ValueError):
    """An answer that is an error of the server's; `status` is its number."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None: a redirection is an answer like any other error."""


@dataclass(frozen=True)
class Address:
    """Where a server is."""

    root: str
    """Without /v1 and without a slash at its end."""
    where: str
    """What was typed, for messages."""
    key: str | None = None
    """An API key, sent to this address alone."""

    @classmethod
    def of(cls, typed: str, where: str, key: str | None = None) -> Address:
        """The address that was typed.

        Raises:
            ConfigError: it is none.
        """
        parts = urllib.parse.urlsplit(typed)
        try:
            port = parts.port
        except ValueError:
            port = -1
        fix = "write http://HOST:PORT, as the server prints it"
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ConfigError(Problem(where, f"{typed} is no address", fix))
        if parts.username or parts.password or parts.query or parts.fragment:
            what = "an address with a password, a query or a fragment would be printed and kept"
            raise ConfigError(Problem(where, what, "name the variable that holds the key with --key-env NAME"))
        path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
        return cls(f"{parts.scheme}://{parts.netloc}{path}", where, key)

    @property
    def is_here(self) -> bool:
        """Whether it is this machine's."""
        return urllib.parse.urlsplit(self.root).hostname in LOOPBACK

    def get(self, path: str) -> Any:
        """What the server says at a path.

        Raises:
            Refused: it answers with an error, or not in JSON.
            ConfigError: it does not answer.
        """
        return self._ask(path, None)

    def post(self, path: str, body: Any) -> Any:
        """What the server answers to JSON; errors as `get`."""
        return self._ask(path, json.dumps(body, ensure_ascii=False).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.root}{path}", data=body, headers=headers)
        handlers: list[urllib.request.BaseHandler] = [_Stay()]
        if self.is_here:
            handlers.append(urllib.request.ProxyHandler({}))
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_SECONDS) as answer:
                raw = answer.read(MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            raise Refused(error.code, _message(error)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            what = f"{self.root}{path} does not answer: {reason}"
            raise ConfigError(Problem(self.where, what, "check that the server runs, and its address")) from None
        if len(raw) > MOST_BYTES:
            raise Refused(200, f"an answer of more than {MOST_BYTES >> 20} MiB")
        try:
            return foreign_files.parse_json(raw)
        except ValueError:
            raise Refused(200, "an answer that is not JSON") from None


def _message(error: urllib.error.HTTPError) -> str:
    """What a server says of its error."""
    try:
        found = foreign_files.parse_json(error.read(1 << 16))
        while isinstance(found, dict):
            found = found.get("error") or found.get("message") or found.get("detail") or error.reason
        return str(found)[:300]
    except (ValueError, OSError, http.client.HTTPException):
        return str(error.reason)
