"""A server that ends with the process that started it, however that ends:

    python -m ftcli.endpoints.tethered WORDS…

runs a program that does not watch its standard input, as vLLM and `transformers serve`, in a session of its own. At the
end of its own standard input, or at a signal, it ends that session: engines that a server started would keep the memory
of a GPU.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

ENDS_SECONDS = 15.0
"""How long a server has to end by itself."""


def tethered(words: Sequence[str]) -> list[str]:
    """The words that run a program so."""
    return [sys.executable, "-m", "ftcli.endpoints.tethered", *words]


def main(words: Sequence[str]) -> int:
    """Run the program; returns its exit code, 128 and the signal where one ended it."""
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    # Its own input is a pipe too, and closes with this process: llama.cpp's server out of xllamacpp watches it.
    process = subprocess.Popen(list(words), stdin=subprocess.PIPE, start_new_session=True)
    for wait in (process.wait, sys.stdin.buffer.read):
        threading.Thread(target=_then_set, args=(wait, over), daemon=True).start()
    over.wait()
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_SECONDS)
    _signal(process, signal.SIGKILL)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _then_set(wait: Callable[[], object], over: threading.Event) -> None:
    wait()
    over.set()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to whatever is left of the session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # the thread that reads the standard input does not end by itself
