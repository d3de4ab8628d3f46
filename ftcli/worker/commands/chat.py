"""`chat`: answers messages that come as JSON lines on standard input, streamed as they are generated."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcli.worker.inference.chat import STOP, chat
from ftcli.worker.process.activity import phase
from ftcli.worker.process.command import Command, Write, request_in

_BYTES = 1 << 16


class Inbox:
    """Messages as JSON lines, one after the other, in which a stop can be looked for without waiting for one.

    It reads by itself: in the buffer of a file of Python's, a line could lie that the system no longer shows.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._read = descriptor, b""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while b"\n" in self._read or self._more():
            line, newline, rest = self._read.partition(b"\n")
            if newline:
                self._read = rest
                yield json.loads(line)

    def stop_came(self) -> bool:
        """Whether the next message is there and a stop; it is then taken out."""
        while b"\n" not in self._read and select.select([self._descriptor], [], [], 0)[0] and self._more():
            pass
        line, newline, rest = self._read.partition(b"\n")
        if not newline or json.loads(line)["do"] != STOP:
            return False
        self._read = rest
        return True

    def _more(self) -> bool:
        """Read on; False at the end."""
        read = os.read(self._descriptor, _BYTES)
        self._read += read
        return bool(read)


def _run(request: Path, _flags: tuple[str, ...], write: Write) -> None:
    def say(what: dict[str, Any]) -> None:
        write(json.dumps(what, ensure_ascii=False) + "\n")

    inbox = Inbox(sys.stdin.fileno())
    with phase("chatting", shown=False):
        chat(request_in(request), inbox, say, inbox.stop_came)


COMMAND: Command = _run
