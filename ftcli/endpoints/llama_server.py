"""llama.cpp's server for a file: started out of the package `xllamacpp`, else as `llama-server` on PATH, and asked."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.endpoints.address import Address, Refused
from ftcli.endpoints.tethered import ENDS_SECONDS, tethered
from ftcli.runs.stop_signals import held_back

PACKAGE, PROGRAM = "xllamacpp", "llama-server"
REMEDY = f"pip install 'ftcli[gguf]', or put {PROGRAM} of llama.cpp on PATH"
STARTS_SECONDS = 600.0
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
_SHOWN = 3


def is_installed() -> bool:
    """Whether a server of llama.cpp can be started here."""
    return importlib.util.find_spec(PACKAGE) is not None or shutil.which(PROGRAM) is not None


def require() -> None:
    """Check that one can be started.

    Raises:
        ConfigError: there is none.
    """
    if not is_installed():
        raise ConfigError(Problem("llama.cpp", "is not installed", REMEDY))


def command(file: Path, *more: str, port: int = 0, alias: str = "", lora: Sequence[Path] = ()) -> list[str]:
    """The words that start it, on this machine alone.

    Args:
        more: further words, as `llama-server` takes them and `llama_process` too.
        port: 0 for one that nobody uses.

    Raises:
        ConfigError: none is installed.
    """
    require()
    words = ["--model", str(file), *(["--alias", alias] if alias else []), *more]
    words += [word for each in lora for word in ("--lora", str(each))]
    if importlib.util.find_spec(PACKAGE) is not None:
        return [sys.executable, "-m", "ftcli.endpoints.llama_process", *words, "--port", str(port)]
    port = port or free_port()
    return tethered([str(shutil.which(PROGRAM)), *words, "--host", "127.0.0.1", "--port", str(port), "--jinja"])


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rendered(server: Address, chat: Mapping[str, Any]) -> str:
    """A conversation, {"messages": …}, as the server renders it, open for an answer.

    Raises:
        Refused: its template refuses the conversation.
    """
    return str(server.post("/apply-template", chat)["prompt"])


def tokenised(server: Address, text: str) -> list[int]:
    """The tokens of a text, with those that the server adds to it, as for a request."""
    body = {"content": text, "add_special": True, "parse_special": True}
    return [int(each) for each in server.post("/tokenize", body)["tokens"]]


@contextlib.contextmanager
def serving(file: Path, *more: str) -> Iterator[Address]:
    """A server of the file, ended with the block; yields its address.

    Args:
        more: further words, as for `command`.

    Raises:
        ConfigError: none is installed, or it does not load the file.
    """
    words = command(file, *more)
    pipe, same = subprocess.PIPE, subprocess.STDOUT
    with held_back():
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=same, text=True, errors="replace")
    try:
        yield Address(_listening(process, file), str(file))
    finally:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(2 * ENDS_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listening(process: subprocess.Popen[str], file: Path) -> str:
    """The address that the server prints once it has loaded the file; what it prints later is passed over."""
    last: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        last = [*last, line.strip()][-_SHOWN:]
        if found := _ADDRESS.search(line):
            # A pipe that nobody reads would stop the server once it is full.
            threading.Thread(target=_drained, args=(process,), daemon=True).start()
            _wait(found.group(), process)
            return found.group()
    what = f"llama.cpp does not load it: {' | '.join(last)}"
    raise ConfigError(Problem(str(file), what, "export it again, or update llama.cpp"))


def _drained(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):
        while process.stdout.read(4096):
            pass


def _wait(address: str, process: subprocess.Popen[str]) -> None:
    """Wait until a server that listens has loaded its model."""
    until = time.monotonic() + STARTS_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            Address(address, address).get("/health")
            return
        except (Refused, ConfigError):
            time.sleep(0.1)
    what = "the server of llama.cpp does not become ready"
    raise ConfigError(Problem(address, what, "look whether there is memory for the model"))
