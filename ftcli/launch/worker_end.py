"""How a run ended: the exit code, its cause in end.json, and what the user is told.

The cause is the first of these that is known: the process that hung, the one that died without a word, the error that a
process told, the signal that ended the worker. torch's launcher returns 1 for every one.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ftcli.core.exit_codes import (
    EXIT_BUG,
    EXIT_DISK,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_MEMORY,
    EXIT_RANK_LOST,
    OWN_CODES,
)
from ftcli.core.text import shell_word
from ftcli.launch.rank_watch import RankWatch
from ftcli.runs import run_end, rundir
from ftcli.runs.beats import TRAINING, Beat
from ftcli.runs.resume_line import resume_with
from ftcli.runs.run_end import RunEnd
from ftcli.runs.stop_signals import STOPS

_NO_MEMORY = re.compile(r"std::bad_alloc|memory allocation of \d+ bytes failed|Cannot allocate memory|[Oo]ut of memory")
"""What a process prints that ends itself for want of memory, where no error could be raised."""
_FAILURE = re.compile(r"exitcode\s*: (-?\d+)\)?(?: local_rank: \d+)? \(pid: (\d+)\)")
"""How torch's launcher prints a process that failed by itself, which it alone was told of."""
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One start of a run's processes on this machine, and what is known of it when it is over."""

    run: Path
    code: int
    """Of the process that was started, as `Popen.wait` gives it."""
    num_processes: int
    watch: RankWatch
    is_first: bool = True
    """Whether this is the only machine, or the one that created the run."""
    asked: Sequence[str] = ()
    """The signals that this process got meanwhile, which ask to stop."""
    memory_kills: int = 0
    """How many processes the kernel killed meanwhile for want of memory."""
    output: str = ""
    """The end of what the processes printed."""
    held_back: str = ""
    """What of it nobody has seen, where no process has told of an error of its own."""

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended the process that was started."""
        number = -self.code if self.code < 0 else self.code - 128 if self.code > 128 else 0
        return signal.Signals(number) if number in {each.value for each in signal.Signals} else None


def settled(launch: Launch, say: Callable[[str], None]) -> int:
    """The exit code of a run; says what the processes could not, and writes end.json."""
    end, told = cause(launch)
    if launch.held_back and (end.code not in OWN_CODES or launch.signal in _CRASHES):
        say(launch.held_back)
    if told:
        for line in end.message.splitlines():
            say(line)
    run, kept = launch.run, run_end.read(launch.run)
    if end != kept and (launch.is_first or (kept is None and end.code != EXIT_DONE)):
        run_end.write(run, end)
    resume = resume_with(run)
    if told or end.code in (EXIT_MEMORY, EXIT_DISK, EXIT_RANK_LOST):
        say(resume)
    elif end.code == EXIT_INTERRUPTED and launch.num_processes > 1:
        say(resume)  # again where the launcher has printed its own failure after the worker's message
    if end.code in OWN_CODES:
        return end.code
    say(f"This is a bug in ftcli or in a library it uses; the traceback is also in {run / rundir.LOG}.")
    # Not the command.sh of the folder, which somebody else may have written.
    again = f"--from {shell_word(run)}" if rundir.is_run(run) else f"--resume {shell_word(rundir.whole(run))}"
    say(f"To reproduce it: ftcli train {again}")
    return EXIT_BUG


def cause(launch: Launch) -> tuple[RunEnd, bool]:
    """How a run ended, and whether that remains to be told."""
    own, host = run_end.read(launch.run) or _of_channel(launch.watch), run_end.this_host()
    if launch.code == EXIT_DONE and own is None:
        return RunEnd(code=EXIT_DONE, host=host), False
    if launch.watch.hung is not None:
        return launch.watch.hung, False
    if own is None or own.code == EXIT_RANK_LOST:
        beat, number = _died(launch)
        if beat is not None:
            return _lost(launch, beat, number), True
    if own is not None:
        return own, False
    if launch.num_processes > 1:
        message = f"the launcher ended before a process of the run said why: {launch.run / rundir.LOG} has its words"
        code = EXIT_INTERRUPTED if launch.asked else EXIT_RANK_LOST
        return RunEnd(code=code, message=message, host=host), True
    if launch.signal is not None:
        return _lost(launch, next(iter(launch.watch.beats()), None), launch.signal), True
    return RunEnd(code=launch.code if launch.code in OWN_CODES else EXIT_BUG, host=host), False


def _of_channel(watch: RankWatch) -> RunEnd | None:
    """What the first process to leave said, where the run directory took no end.json."""
    beats = sorted(watch.left(), key=lambda beat: (beat.code == EXIT_RANK_LOST, beat.at))
    return next((_at(beat, RunEnd(code=beat.code or EXIT_BUG, message=beat.message)) for beat in beats), None)


def _died(launch: Launch) -> tuple[Beat | None, signal.Signals | None]:
    """The process of several that died first, and by which signal; none where all died because of another's failure."""
    printed = {int(pid): -int(code) for code, pid in _FAILURE.findall(launch.output)}
    for beat in launch.watch.lost.values():
        if printed.get(beat.pid, 0) > 0:
            return beat, signal.Signals(printed[beat.pid])
    return (None if printed else next(iter(launch.watch.lost.values()), None)), None


def _lost(launch: Launch, beat: Beat | None, number: signal.Signals | None) -> RunEnd:
    """The end of a run of which a process died without a word."""
    who = f"rank {beat.rank}" if beat is not None and launch.num_processes > 1 else "the worker"
    message = f"{who} was killed by {number.name}" if number else f"{who} died"
    if beat is not None:
        message += f" in step {beat.step}" if beat.phase == TRAINING else f" while {beat.phase}"
    code = EXIT_RANK_LOST
    if launch.asked or number in STOPS:
        code = EXIT_INTERRUPTED
    elif number == signal.SIGKILL and launch.memory_kills:
        code, message = EXIT_MEMORY, f"{message}: the machine ran out of memory"
    elif number == signal.SIGABRT and (words := _NO_MEMORY.search(launch.output)):
        code, message = EXIT_MEMORY, f"{message}: {words[0]}"
    end = RunEnd(code=code, message=message, host=run_end.this_host())
    return _at(beat, end) if beat is not None else end


def _at(beat: Beat, end: RunEnd) -> RunEnd:
    return replace(end, rank=beat.rank, step=beat.step, phase=beat.phase, host=run_end.this_host())


def end_of_output(log: Path, begin: int) -> str:
    """The end of what was printed into a log behind `begin`."""
    try:
        with open(log, "rb") as file:
            file.seek(max(begin, log.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
