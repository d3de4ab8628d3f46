"""A server under way: started, waited for until it answers, and ended with what started it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from ftcli.core.errors import ConfigError, Problem
from ftcli.endpoints.address import Address, Refused
from ftcli.endpoints.tethered import tethered
from ftcli.runs.stop_signals import held_back
from ftcli.serving.programs import HOST

_LOOKS_SECONDS = 0.2


def require_free(port: int, where: str) -> None:
    """Check that nobody listens on a port of this machine.

    Raises:
        ConfigError: somebody does, or it is no port.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except (OSError, OverflowError) as error:
        raise ConfigError(Problem(where, f"port {port} cannot be had: {error}", "name another with --port")) from None


@contextlib.contextmanager
def running(words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a session of its own, all of whose processes end with the block, or with this process.

    What holds it ends it once its standard input closes, which it does however this process dies. What the server
    prints goes to stderr, by way of this process, which shows it without effect on the terminal.
    """
    pipe, same = subprocess.PIPE, subprocess.STDOUT
    with held_back():
        process = subprocess.Popen(tethered(words), stdin=pipe, stdout=pipe, stderr=same, start_new_session=True)
    told = threading.Thread(target=_tell, args=(process,), daemon=True)
    told.start()
    try:
        yield process
    finally:
        _end(process)
        told.join(_LOOKS_SECONDS)


def _tell(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        for line in process.stdout:
            sys.stderr.write(line.decode("utf-8", "replace"))
            sys.stderr.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()  # which lets the server end by itself for a while, and no longer


def answers(address: Address, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers.

    Raises:
        ConfigError: it ends before that.
    """
    while process.poll() is None:
        try:
            address.get("/health")
            return
        except Refused as error:
            if error.status == 200:  # vLLM answers with nothing
                return
        except ConfigError:
            pass
        time.sleep(_LOOKS_SECONDS)
    what = f"the server ended with code {process.returncode} before it answered"
    raise ConfigError(Problem(address.where, what, "what it printed stands above"))
