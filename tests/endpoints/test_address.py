"""An address that was typed: asked alone, within bounds, and never left for another one."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from ftcli.core.errors import ConfigError
from ftcli.endpoints import address as addresses
from ftcli.endpoints.address import Address, Refused
from tests.loopback import serving


class Odd(BaseHTTPRequestHandler):
    """Answers in the ways that a server should not."""

    server: Any

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        status, body = self.server.answers[self.path]
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def test_what_no_server_should_answer_is_an_error_and_a_redirection_is_not_followed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # this machine is asked without it
    monkeypatch.setattr(addresses, "MOST_BYTES", 1000)
    answers = {
        "/good": (200, b'{"a": 1}'), "/moved": (302, b""), "/page": (200, b"<html>"), "/long": (200, b" " * 1001),
        "/deep": (200, b"[" * 900), "/refused": (401, b'{"error": {"message": "no key"}}'), "/elsewhere": (200, b"{}"),
    }  # fmt: skip
    with serving(Odd, answers=answers, seen=[]) as server:
        here = Address.of(f"http://127.0.0.1:{server.server_address[1]}/v1/", "ftcli verify", "secret")
        assert here.get("/good") == {"a": 1}
        for path, what in {
            "/moved": "302", "/page": "not JSON", "/long": "more than", "/deep": "not JSON", "/refused": "401: no key",
        }.items():  # fmt: skip
            with pytest.raises(Refused, match=what):
                here.get(path)
        assert ("/elsewhere", "Bearer secret") not in server.seen  # type: ignore[attr-defined]
        assert {key for _, key in server.seen} == {"Bearer secret"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "typed", ["http://", "http://host:port", "ftp://host", "http://user:word@host", "http://host/?key=1", "http://h/#a"]
)
def test_what_is_no_address_is_refused(typed: str):
    with pytest.raises(ConfigError):
        Address.of(typed, "ftcli verify")


def test_the_paths_that_users_copy_are_taken_off():
    for typed in ("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "http://h:1/v1/chat/completions"):
        assert Address.of(typed, "").root == "http://h:1"
    assert Address.of("https://h/llm/v1", "").root == "https://h/llm"
