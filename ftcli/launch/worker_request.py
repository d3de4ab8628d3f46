"""Ask a worker for one thing other than training: write the request, start the process, hand over its answer."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.core.errors import EXIT_BUG, EXIT_CONFIG, EXIT_DATA, EXIT_INTERRUPTED
from ftcli.launch.local import worker_environment


@contextlib.contextmanager
def started(command: str, request: Mapping[str, Any], **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """A worker that carries out `command` (a module of ftcli/worker/commands); ended when the block is left."""
    with tempfile.TemporaryDirectory(prefix="ftcli-") as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "ftcli.worker", command, str(path)],
            env=worker_environment(),
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


def exit_code(process: subprocess.Popen[str]) -> int:
    """The worker's exit code as a command of ours ends with."""
    code = process.wait()
    return code if code in (0, EXIT_CONFIG, EXIT_DATA, EXIT_INTERRUPTED) else EXIT_BUG


def answers(command: str, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The JSON lines that a worker answers with.

    Raises:
        WorkerFailed: it ended with another exit code than 0; what was wrong is on stderr already.
    """
    with started(command, request, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
        if code := exit_code(process):
            raise WorkerFailed(code)


class WorkerFailed(Exception):
    """A worker that has told the user what is wrong; carries the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
