"""python -m ftcli.worker COMMAND TARGET [FLAGS]: a command is a module of ftcli/worker/commands, a target the folder of
a run or stage, or the file of a request.

Started by the front half, which has already checked the request. All processes of a run start here.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn, TextIO

from ftcli.core.declarations import names_in
from ftcli.core.errors import FtcliError
from ftcli.core.exit_codes import EXIT_BUG, EXIT_DONE, EXIT_RANK_LOST
from ftcli.core.untrusted.printable import cleaned, process_output
from ftcli.runs import rundir
from ftcli.worker.process import deferred_imports
from ftcli.worker.process.exhausted import as_situation
from ftcli.worker.process.parent_watch import die_with_parent

_COMMANDS = "ftcli.worker.commands"

_answers: TextIO | None = None
"""The stream for answers; standard output itself is redirected, since libraries print to it."""


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    try:
        _run(*arguments)
        return EXIT_DONE
    except FtcliError as error:
        return _told(error)
    except Exception as error:
        if (situation := as_situation(error)) is not None:
            return _told(situation)
        traceback.print_exc()
        return EXIT_BUG


def _told(error: FtcliError) -> int:
    for problem in error.problems:
        sys.stderr.write(f"{problem}\n")
    return error.exit_code


def _run(command: str, target: str, *flags: str) -> None:
    if command not in (known := names_in(_COMMANDS)):
        raise ValueError(f"no such worker command: {command}; there are {', '.join(known)}")
    die_with_parent()
    deferred_imports.defer()
    # Only this command's module: the others import libraries that it does not need.
    module = deferred_imports.import_heavy(f"{_COMMANDS}.{command}")
    module.COMMAND(Path(target), flags, _write)


def _write(text: str) -> None:
    out = _answers or sys.stdout
    out.write(text)
    out.flush()


def leave(code: int, arguments: list[str]) -> NoReturn:
    """End this process. One of several leaves its exit code in a file for the front half, and does not clean up.

    A lost process, and what may have come of one, is left to the launcher while it may start all processes again.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(code)
    path = Path(arguments[1]) / rundir.EXIT_CODE
    started, most = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    again = started < most and code in (EXIT_BUG, EXIT_RANK_LOST)
    # The first rank to fail has the cause; the launcher then ends the others and returns 1 for every cause.
    if code != EXIT_DONE and arguments[0] == "train" and not path.exists() and not again:
        rundir.write_atomically(path, f"{code}\n")
    if started < most and not again:
        code = EXIT_DONE  # the launcher starts all processes again where one ends otherwise
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written. Destroying the process group was seen to hang, waiting for a rank that had already exited.
    os._exit(code)


if __name__ == "__main__":
    # Standard output is for answers only; what libraries print goes to stderr.
    sys.stderr = cleaned(sys.stderr, process_output)
    _answers, sys.stdout = sys.stdout, sys.stderr
    leave(main(sys.argv[1:]), sys.argv[1:])
