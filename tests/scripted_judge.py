"""An endpoint of OpenAI's form that judges by a rule, so that tests know its verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import serving


class Shorter(BaseHTTPRequestHandler):
    """Finds the shorter of two answers better, and of two as long the one that comes first in the alphabet."""

    server: Any

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][-1]["content"]
        first, rest = text.partition("Answer A:\n")[2].partition("\n\nAnswer B:\n")[::2]
        second = rest.partition("\n\nWhich")[0]
        choice = "A" if (len(first), first) < (len(second), second) else "B"
        message = {"role": "assistant", "content": choice}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": asked["model"]}
        body |= {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
        body |= {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def judging() -> Iterator[str]:
    """The address of such a judge, which answers until the block is left."""
    with serving(Shorter) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
