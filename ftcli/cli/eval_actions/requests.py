"""What every way of measuring asks a worker: which model, how many rows, how many together, what is granted."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ftcli.data.files.locate import SourcePath, is_local, locate
from ftcli.launch import worker_request


def answered(command: str, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """A worker's answer to an evaluation.

    Args:
        command: of the worker.
        options: those of `ftcli eval`.
        more: what this way of measuring asks beside what all of them do.

    Raises:
        WorkerFailed: it failed, and said why.
    """
    common = {name: getattr(options, name) for name in ("rows", "batch_size", "trust_remote_code")}
    found: dict[str, Any]
    [found] = worker_request.answers(command, {**common, **more})
    return found


def file_of(given: str) -> str:
    """The place of the rows of --data, checked to exist; a local path is made absolute.

    Raises:
        ConfigError: there are none.
    """
    locate(SourcePath(path=given), f"--data {given}", fetch=True)
    return os.path.realpath(os.path.expanduser(given)) if is_local(given) else given
