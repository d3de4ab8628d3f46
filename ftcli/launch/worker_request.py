"""Runs a worker command other than training: writes the request, starts the process, returns its answer."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from ftcli.core.exit_codes import EXIT_BUG, OWN_CODES
from ftcli.runs.stop_signals import Stopped, held_back, name_of

ENDS_WITHIN = 15.0
"""Seconds after which a worker that was asked to stop, and does so within ten, is killed."""


@contextlib.contextmanager
def started(command: str, request: Mapping[str, Any], **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """A worker that runs `command` (a module of ftcli/worker/commands); terminated when the block ends.

    What it says itself goes to stderr, and what libraries print only where it ended without a word.
    """
    # Only here: most commands that can ask a worker need none.
    from ftcli.launch.local import worker_environment
    from ftcli.launch.output_pump import Pump

    with tempfile.TemporaryDirectory(prefix="ftcli-") as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        with held_back():
            process = subprocess.Popen(
                [sys.executable, "-m", "ftcli.worker", command, str(path)],
                env=worker_environment(say=_note),
                text=True,
                encoding="utf-8",
                stderr=subprocess.PIPE,
                **streams,
            )
        assert process.stderr is not None
        # As bytes: as text its carriage returns would be lines.
        errors = cast(IO[bytes], process.stderr.buffer)  # type: ignore[attr-defined]
        pump, ended_itself = Pump(errors, None), False
        try:
            yield process
            ended_itself = process.poll() is not None
        except Stopped as stopped:
            stopped.reported = _ended(process, stopped.number) in OWN_CODES
            raise
        except WorkerFailed:
            ended_itself = True
            raise
        finally:
            if process.poll() is None:  # what it still had to answer is not wanted
                pump.leave_out(str(Stopped(name_of(signal.SIGTERM))))
            code = _ended(process)
            pump.finish(ENDS_WITHIN)
            if ended_itself and code not in OWN_CODES and (held := pump.held_back()):
                _note(held)


def _ended(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    """End a worker that has not ended, by a signal; returns its exit code."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def _note(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def exit_code(process: subprocess.Popen[str]) -> int:
    """The exit code of an ftcli command, from its worker's."""
    code = process.wait()
    return code if code in OWN_CODES else EXIT_BUG


def answers(command: str, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The JSON lines of a worker's answer.

    Raises:
        WorkerFailed: its exit code is not 0; the error is already on stderr.
    """
    with started(command, request, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
        if code := exit_code(process):
            raise WorkerFailed(code)


class WorkerFailed(Exception):
    """A worker failed and has already reported why; carries the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
