"""What is read of a server's answer."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler

from ftcli.endpoints.address import Address
from ftcli.serving.stacks import OPENAI, Stack
from tests.loopback import serving

# As mlx_lm.server 0.32 says it.
TOKENS = [{"id": 269, "token": "The", "logprob": -0.005}, {"id": 3, "token": "<|close|>", "logprob": -0.25}]
MLX = {
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": {"content": [{**each, "top_logprobs": [each]} for each in TOKENS]},
            "message": {"role": "assistant", "content": "The"},
        }
    ],
    "usage": {"prompt_tokens": 16, "completion_tokens": 2, "total_tokens": 18},
}


class Mlx(BaseHTTPRequestHandler):
    """MLX's answer, whatever is asked."""

    def do_POST(self) -> None:
        body = json.dumps(MLX).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_the_tokens_that_mlx_says_log_probabilities_of_are_those_of_the_answer():
    with serving(Mlx) as server:
        address = Address.of(f"http://127.0.0.1:{server.server_address[1]}", "here")
        stack = Stack(address=address, form=OPENAI, model="folder", facts={})
        found = stack.ask({"messages": [{"role": "user", "content": "?"}]}, 8)
    assert (found.ids, found.logps) == ([269, 3], [-0.005, -0.25])
    assert (found.text, found.ended, found.prompt_count, found.prompt_ids) == ("The", True, 16, None)
