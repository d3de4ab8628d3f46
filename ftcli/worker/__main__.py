"""python -m ftcli.worker train RUN_DIR [--resume CHECKPOINT], make STAGE_DIR [--trust-remote-code], or eval, generate,
chat, merge, score, sample, data or preview with a REQUEST.json.

Started by the front half, which has checked what it asks for. Several processes of one run come here side by side.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn, TextIO

from ftcli.core.errors import EXIT_BUG, EXIT_DONE, FtcliError
from ftcli.runs import rundir
from ftcli.settings.ownership import REMOTE_CODE

_MODULES = {
    "train": "training.run", "make": "commands.synthesise", "eval": "commands.evaluate", "generate": "inference.chat",
    "measure": "commands.measure_policies", "merge": "models.merge", "score": "commands.score",
    "sample": "commands.score", "data": "commands.inspect_data", "preview": "commands.inspect_data",
    "chat": "inference.chat",
}  # fmt: skip
"""Which module of the worker carries out each request."""

_answers: TextIO | None = None
"""Where answers go, once what libraries print has been sent elsewhere."""


def main(arguments: list[str]) -> int:
    """Carry out one request; returns the exit code."""
    try:
        _run(*arguments)
        return EXIT_DONE
    except FtcliError as error:
        for problem in error.problems:
            sys.stderr.write(f"{problem}\n")
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return EXIT_BUG


def _run(command: str, target: str, *rest: str) -> None:
    from ftcli.worker.process import deferred_imports
    from ftcli.worker.process.parent_watch import die_with_parent

    die_with_parent()
    deferred_imports.defer()
    if command in _MODULES:
        deferred_imports.import_heavy(f"ftcli.worker.{_MODULES[command]}")
    if command == "train":
        from ftcli.worker.training.run import train

        train(Path(target), Path(rest[1]) if rest[:1] == ("--resume",) else None)
        return
    if command == "make":
        from ftcli.worker.commands.synthesise import make

        make(Path(target), trust_remote_code=REMOTE_CODE in rest)
        return
    request = json.loads(Path(target).read_text(encoding="utf-8"))
    if command == "eval":
        from ftcli.worker.commands.evaluate import evaluate

        _write(evaluate(request))
    elif command == "generate":
        from ftcli.worker.inference.chat import generate

        for line in generate(request):
            _write(line)
    elif command == "measure":
        from ftcli.worker.commands.measure_policies import measure_policies

        for line in measure_policies(request):
            _write(line)
    elif command == "merge":
        from ftcli.worker.models.merge import merge

        _write(merge(request))
    elif command in ("score", "sample"):
        from ftcli.worker.commands import score

        for line in (score.score if command == "score" else score.sample)(request):
            _write(line)
    elif command == "data":
        from ftcli.worker.commands.inspect_data import inspect

        _write(inspect(request))
    elif command == "preview":
        from ftcli.worker.commands.inspect_data import preview

        for line in preview(request):
            _write(line)
    elif command == "chat":
        from ftcli.worker.inference.chat import chat

        chat(request, sys.stdin, _write_piece)
    else:
        raise ValueError(f"no such worker command: {command}")


def _write(value: dict[str, Any]) -> None:
    _write_piece(json.dumps(value, ensure_ascii=False) + "\n")


def _write_piece(text: str) -> None:
    out = _answers or sys.stdout
    out.write(text)
    out.flush()


def leave(code: int, arguments: list[str]) -> NoReturn:
    """Ends this process; one of several at once, with the exit code left where the front half finds it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(code)
    path = Path(arguments[1]) / rundir.EXIT_CODE
    # The first to fail is the cause; the launcher ends the others and returns 1 for every cause.
    if code != EXIT_DONE and arguments[0] == "train" and not path.exists():
        rundir.write_atomically(path, f"{code}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written. Taking the process group down was seen to wait for ever for a process that had gone before.
    os._exit(code)


if __name__ == "__main__":
    # Standard output is for answers alone; a library that reports there must not stand between them.
    _answers, sys.stdout = sys.stdout, sys.stderr
    leave(main(sys.argv[1:]), sys.argv[1:])
