"""`replay`: a run's held-out prompts with their tokens and answers; then its judgement on what a server made of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ftcli.worker.inference.parity.replay import replay
from ftcli.worker.process.activity import phase
from ftcli.worker.process.command import Command, Write, request_in


def _run(request: Path, _flags: tuple[str, ...], write: Write) -> None:
    with phase("comparing with what is served"):
        for answer in replay(request_in(request), iter(sys.stdin.readline, "")):
            write(json.dumps(answer, ensure_ascii=False) + "\n")


COMMAND: Command = _run
