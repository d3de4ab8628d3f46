"""What a worker command is, as each module of ftcli/worker/commands declares one.

The module's name is the command's. `COMMAND` is called with what stands behind the name, and a place for its answers.
Most commands read a request, which these functions make of what answers it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ftcli.worker.process.activity import phase

Write = Callable[[str], None]
"""Takes text to whoever asked, at once."""
Command = Callable[[Path, tuple[str, ...], Write], None]
"""A folder or the file of a request, the flags behind it, and where answers go."""
Request = dict[str, Any]
Answer = dict[str, Any]


def one_answer(answer: Callable[[Request], Answer], doing: str) -> Command:
    """The command that answers a request with one line of JSON; `doing` says what it does, for its line of progress."""

    def each(request: Request) -> Iterator[Answer]:
        yield answer(request)

    return lines(each, doing)


def lines(answers: Callable[[Request], Iterator[Answer]], doing: str) -> Command:
    """The command that answers a request with lines of JSON, each as soon as it is known; `doing` as above."""

    def run(target: Path, flags: tuple[str, ...], write: Write) -> None:
        following = answers(request_in(target))
        while True:
            with phase(doing):
                answer = next(following, None)
            if answer is None:
                return
            write(json.dumps(answer, ensure_ascii=False) + "\n")

    return run


def request_in(file: Path) -> Request:
    """The request that the front half wrote."""
    request: Request = json.loads(file.read_text(encoding="utf-8"))
    return request
