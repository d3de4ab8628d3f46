"""`chat`: answers messages from standard input, streamed as they are generated."""

from __future__ import annotations

import sys
from pathlib import Path

from ftcli.worker.inference.chat import chat
from ftcli.worker.process.activity import phase
from ftcli.worker.process.command import Command, Write, request_in


def _run(request: Path, _flags: tuple[str, ...], write: Write) -> None:
    with phase("chatting", shown=False):
        chat(request_in(request), sys.stdin, write)


COMMAND: Command = _run
