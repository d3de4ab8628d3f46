"""Ask a warm worker (tests/warm_worker.py) for commands, in the manner of `subprocess`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from tests.conftest import REPOSITORY

STARTS_SECONDS = 600
# Where arrow's allocator has a thread of its own, the process could not be forked.
SINGLE = {"JE_ARROW_MALLOC_CONF": "background_thread:false", "OMP_NUM_THREADS": "1"}


def possible() -> bool:
    """Whether a process with the libraries in memory can be forked here: never beside CUDA."""
    return sys.platform == "linux" and not Path("/dev/nvidiactl").exists()


def own_umask() -> int:
    """The umask of this process, which a command that it starts inherits."""
    found = os.umask(0)
    os.umask(found)
    return found


class Command:
    """A command under way: what of `subprocess.Popen` the tests use."""

    def __init__(self, pid: int, server: Warm, log: Path) -> None:
        self.pid, self.returncode = pid, None
        self._server, self._log = server, log
        self.returncode: int | None

    def poll(self) -> int | None:
        """The exit code, once there is one."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end."""
        if self.returncode is None:
            self.returncode = self._server.answer(timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is not over."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def said(self) -> tuple[str, str]:
        """What it wrote to its standard output and error."""
        return tuple(self._log.with_suffix(end).read_text(encoding="utf-8") for end in (".out", ".err"))  # type: ignore[return-value]

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.wait()


class Warm:
    """The process that commands are forked from; one command at a time."""

    def __init__(self, folder: Path, compiled: Path | None = None) -> None:
        self._folder, self._number = folder, 0
        with open(folder / "server.err", "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm_worker", str(compiled or folder / "compiled")],
                cwd=REPOSITORY, env={**os.environ, **SINGLE}, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._answers: SimpleQueue[int | None] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(int(line))
        self._answers.put(None)

    def answer(self, timeout: float | None) -> int:
        """The next number that the server says."""
        try:
            found = self._answers.get(timeout=timeout)
        except Empty:
            raise subprocess.TimeoutExpired("ftcli", timeout or 0) from None
        if found is None:
            self._answers.put(None)  # and so whoever asks again
            raise RuntimeError((self._folder / "server.err").read_text(encoding="utf-8"))
        return found

    def start(
        self,
        words: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        module: str = "ftcli",
        ranks: int = 0,
        terminal: Path | None = None,
    ) -> Command:
        """Start `python -m MODULE WORDS`, in a session of its own, or that many ranks of it.

        Args:
            terminal: it writes there, and that becomes the terminal of its session.
        """
        assert self._process.stdin is not None
        self._number += 1
        log = self._folder / str(self._number)
        for end in (".out", ".err"):
            log.with_suffix(end).touch()
        request = {"module": module, "words": words, "ranks": ranks, "cwd": str(cwd), "env": dict(env),
                   "stdout": str(terminal or f"{log}.out"), "stderr": str(terminal or f"{log}.err"),
                   "umask": own_umask()}  # fmt: skip
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Command(self.answer(STARTS_SECONDS), self, log)

    def run(
        self,
        words: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        timeout: float,
        module: str = "ftcli",
        ranks: int = 0,
    ) -> subprocess.CompletedProcess[str]:
        """As `start`, to its end, its output captured."""
        with self.start(words, cwd, env, module, ranks) as command:
            code = command.wait(timeout)
        return subprocess.CompletedProcess([module, *words], code, *command.said())

    def close(self) -> None:
        """Let the server end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
