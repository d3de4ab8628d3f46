"""python -m ftcli.worker COMMAND TARGET [FLAGS]: a command is a module of ftcli/worker/commands, a target the folder of
a run or stage, or the file of a request.

Started by the front half, which has already checked the request. All processes of a run start here.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TextIO

from ftcli.core.declarations import names_in
from ftcli.core.errors import ConfigError, FtcliError, InterruptedRun, Problem
from ftcli.core.exit_codes import EXIT_BUG, EXIT_DONE, EXIT_INTERRUPTED, EXIT_RANK_LOST
from ftcli.core.plugins import plugin_loading
from ftcli.core.untrusted.printable import cleaned, process_output
from ftcli.runs import run_end, rundir
from ftcli.runs.run_end import RunEnd
from ftcli.runs.stop_signals import Stopped
from ftcli.runs.worker_records import WAITS
from ftcli.worker.process import deferred_imports, heartbeat, interruption, own_lines
from ftcli.worker.process.exhausted import as_situation
from ftcli.worker.process.parent_watch import die_with_parent

_COMMANDS = "ftcli.worker.commands"
_IN_RUNS = ("train", "synthesise")
"""The commands whose target is the directory of a run or stage, which keeps how they ended."""

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
    except SystemExit as end:
        if (fault := plugin_loading.blame(end)) is None:
            raise
        return _told(ConfigError(fault))
    except Exception as error:
        run = Path(arguments[1]).resolve() if arguments[:1] and arguments[0] in _IN_RUNS else None
        if (situation := as_situation(error, run)) is not None:
            return _told(situation)
        if (fault := plugin_loading.blame(error)) is not None:
            return _told(ConfigError(fault))
        own_lines.say(traceback.format_exc())
        heartbeat.failed(f"{type(error).__name__}: {error}")
        return EXIT_BUG


def _work(arguments: list[str]) -> list[str]:
    """The arguments of this worker. One that was started early imports what training needs, and waits for them."""
    if arguments[:1] != [WAITS]:
        return arguments
    die_with_parent()
    deferred_imports.defer()
    with suppress(Exception):  # it comes again, and is told then, where the work is training
        deferred_imports.import_heavy(f"{_COMMANDS}.train")
    with open(int(arguments[1]), encoding="utf-8") as pipe:
        text = pipe.read()
    if not text:  # nobody has work for it
        _end(EXIT_INTERRUPTED)
    given = json.loads(text)
    os.environ.update(given["environment"])
    sys.argv[1:] = given["arguments"]
    return list(given["arguments"])


def _interrupted(message: str, arguments: list[str]) -> InterruptedRun:
    """The error of a command that was stopped; of a run or stage with the command that resumes it."""
    folder = Path(arguments[1])
    return interruption.interrupted(message, folder) if folder.is_dir() else InterruptedRun(Problem("", message))


def _give_up(message: str, arguments: list[str]) -> NoReturn:
    """End this process, which was asked to stop and hangs in something."""
    if not _reported:
        _told(_interrupted(message, arguments))
    _end(_recorded(EXIT_INTERRUPTED, arguments))


def _told(error: FtcliError) -> int:
    global _reported
    _reported = True
    for problem in error.problems:
        own_lines.say(str(problem))
    heartbeat.failed("; ".join(": ".join(filter(None, (each.where, each.what))) for each in error.problems))
    return error.exit_code


def _run(command: str, target: str, *flags: str) -> None:
    if command not in (known := names_in(_COMMANDS)):
        raise ValueError(f"no such worker command: {command}; there are {', '.join(known)}")
    die_with_parent()
    heartbeat.begin()
    deferred_imports.defer()
    # Only this command's module: the others import libraries that it does not need.
    module = deferred_imports.import_heavy(f"{_COMMANDS}.{command}")
    module.COMMAND(Path(target), flags, _write)


def _write(text: str) -> None:
    out = _answers or sys.stdout
    out.write(text)
    out.flush()


def leave(code: int, arguments: list[str]) -> NoReturn:
    """End this process, after it told the front half how. One of several does not clean up.

    A lost process, and what may have come of one, is left to the launcher while it may start all processes again.
    """
    code = _recorded(code, arguments)
    if _alone():
        sys.exit(code)
    # Everything is written. Destroying the process group was seen to hang, waiting for a rank that had already exited.
    _end(code)


def _alone() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def _recorded(code: int, arguments: list[str]) -> int:
    """Leave the exit code and its cause where the front half finds them; returns the code for the launcher."""
    started, most = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    again = started < most and code in (EXIT_BUG, EXIT_RANK_LOST)
    if code != EXIT_DONE and not again and arguments[0] in _IN_RUNS:
        _keep(code, Path(arguments[1]))
    heartbeat.leaves(code)
    # The launcher starts all processes again where one ends otherwise.
    return EXIT_DONE if started < most and not again else code


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _keep(code: int, run: Path) -> None:
    """Write how the run ended; the first rank to fail has the cause, of which the others' failures come."""
    if not (run / rundir.END).exists():
        at = heartbeat.now()
        run_end.write(
            run,
            RunEnd(code=code, message=at.message, rank=at.rank, host=run_end.this_host(), step=at.step, phase=at.phase),
        )


if __name__ == "__main__":
    # Standard output is for answers only; what libraries print goes to stderr.
    sys.stderr = cleaned(sys.stderr, process_output)
    _answers, sys.stdout = sys.stdout, sys.stderr
    work = _work(sys.argv[1:])
    leave(main(work), work)
