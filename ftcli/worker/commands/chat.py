"""`chat`: answers messages that come as JSON lines on standard input, streamed as they are generated."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ftcli.worker.inference.chat import chat
from ftcli.worker.process.activity import phase
from ftcli.worker.process.command import Command, Write, request_in


def _run(request: Path, _flags: tuple[str, ...], write: Write) -> None:
    def say(what: dict[str, Any]) -> None:
        write(json.dumps(what, ensure_ascii=False) + "\n")

    with phase("chatting", shown=False):
        chat(request_in(request), (json.loads(line) for line in iter(sys.stdin.readline, "")), say)


COMMAND: Command = _run
