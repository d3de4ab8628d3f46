"""llama.cpp's own server on a GGUF file, out of the package xllamacpp, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files

WAIT_SECONDS = 120
PACKAGE = "xllamacpp"
# Weights are mapped from the file. The cache may be held in float32, as transformers holds it, in place of 16 bits.
_SERVE = f"""
import sys, {PACKAGE} as server
params = server.CommonParams()
params.model.path, params.n_ctx, params.hostnames, params.port = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"], 0
params.n_gpu_layers, params.warmup, params.use_jinja, params.n_parallel = 0, False, True, 1
if sys.argv[3] == "exact":
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = server.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = server.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
running = server.Server(params)
print("at", running.listening_address, flush=True)
sys.stdin.read()
"""


def is_installed() -> bool:
    """Whether the package is there."""
    return find_spec(PACKAGE) is not None


class LlamaServer:
    """A running server."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._open = build_opener(ProxyHandler({})).open  # it is on this machine

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a request.

        Raises:
            OSError: it refuses the request, or does not answer.
        """
        data = json.dumps(body).encode()
        with self._open(
            Request(f"{self._address}{path}", data, {"Content-Type": "application/json"}), None, WAIT_SECONDS
        ) as answer:
            return foreign_files.parse_json(answer.read())

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, with those that the server adds to it, as for a request."""
        body = {"content": text, "add_special": True, "parse_special": True}
        return list(self.post("/tokenize", body)["tokens"])

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """A conversation as the server renders it."""
        return str(self.post("/apply-template", {"messages": list(messages)})["prompt"])


@contextmanager
def served(file: Path, *, context: int = 256, exact: bool = False) -> Iterator[LlamaServer]:
    """A server of a GGUF file, which ends with the block.

    Args:
        context: how many tokens it has room for.
        exact: whether it computes as transformers does, as far as it can.

    Raises:
        ConfigError: llama.cpp cannot load the file.
    """
    command = [sys.executable, "-c", _SERVE, str(file), str(context), "exact" if exact else "plain"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as running:
        try:
            assert running.stdout is not None
            lines = iter(running.stdout.readline, "")
            address = next((line.split()[1] for line in lines if line.startswith("at ")), "")
            if not address:
                what = "llama.cpp cannot load the file"
                raise ConfigError(Problem(str(file), what, "serve it from a folder: ftcli export --to folder"))
            yield LlamaServer(address)
        finally:
            running.kill()
