"""Runs a worker command other than training: writes the request, starts the process, returns its answer."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.core.exit_codes import EXIT_BUG, OWN_CODES


@contextlib.contextmanager
def started(command: str, request: Mapping[str, Any], **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """A worker that runs `command` (a module of ftcli/worker/commands); terminated when the block ends."""
    from ftcli.launch.local import worker_environment  # only here: most commands that can ask a worker need none

    with tempfile.TemporaryDirectory(prefix="ftcli-") as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "ftcli.worker", command, str(path)],
            env=worker_environment(say=_note),
            text=True,
            encoding="utf-8",
            **streams,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()


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
