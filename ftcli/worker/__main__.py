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
from ftcli.core.errors import FtcliError, InterruptedRun, Problem
from ftcli.core.exit_codes import EXIT_BUG, EXIT_DONE, EXIT_INTERRUPTED, EXIT_RANK_LOST
from ftcli.core.untrusted.printable import cleaned, process_output
from ftcli.runs import rundir
from ftcli.runs.stop_signals import Stopped
from ftcli.worker.process import deferred_imports, interruption
from ftcli.worker.process.exhausted import as_situation
from ftcli.worker.process.parent_watch import die_with_parent

_COMMANDS = "ftcli.worker.commands"

_answers: TextIO | None = None
"""The stream for answers; standard output itself is redirected, since libraries print to it."""
_reported = False
"""Whether the user has been told why this process ends."""


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    try:
        with interruption.taken(lambda message: _give_up(message, arguments)):
            _run(*arguments)
        return EXIT_DONE
    except Stopped as stopped:
        return _told(_interrupted(str(stopped), arguments))
    except FtcliError as error:
        return _told(error)
    except Exception as error:
        if (situation := as_situation(error)) is not None:
            return _told(situation)
        traceback.print_exc()
        return EXIT_BUG


def _interrupted(message: str, arguments: list[str]) -> InterruptedRun:
    """The error of a command that was stopped; of a run or stage with the command that resumes it."""
    folder = Path(arguments[1])
    return interruption.interrupted(message, folder) if folder.is_dir() else InterruptedRun(Problem("", message))


def _give_up(message: str, arguments: list[str]) -> NoReturn:
    """End this process, which was asked to stop and hangs in something."""
    if not _reported:
        _told(_interrupted(message, arguments))
    code = EXIT_INTERRUPTED if _alone() else _recorded(EXIT_INTERRUPTED, arguments)
    _end(code)


def _told(error: FtcliError) -> int:
    global _reported
    _reported = True
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
    if _alone():
        sys.exit(code)
    # Everything is written. Destroying the process group was seen to hang, waiting for a rank that had already exited.
    _end(_recorded(code, arguments))


def _alone() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def _recorded(code: int, arguments: list[str]) -> int:
    """Leave the exit code of one of several processes in a file; returns the one for the launcher."""
    path = Path(arguments[1]) / rundir.EXIT_CODE
    started, most = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    again = started < most and code in (EXIT_BUG, EXIT_RANK_LOST)
    # The first rank to fail has the cause; the launcher then ends the others and returns 1 for every cause.
    if code != EXIT_DONE and arguments[0] == "train" and not path.exists() and not again:
        rundir.write_atomically(path, f"{code}\n")
    # The launcher starts all processes again where one ends otherwise.
    return EXIT_DONE if started < most and not again else code


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    # Standard output is for answers only; what libraries print goes to stderr.
    sys.stderr = cleaned(sys.stderr, process_output)
    _answers, sys.stdout = sys.stdout, sys.stderr
    leave(main(sys.argv[1:]), sys.argv[1:])
