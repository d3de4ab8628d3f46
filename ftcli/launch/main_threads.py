"""What a process's main thread does, as the kernel and the process itself say: is it at work, and where does it stand?

No thread of the process could answer in the place of a main thread that hangs: the kernel counts the work of each
thread by itself, and the stack is written by a signal's handler, which runs where Python no longer does.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ftcli.runs.beats import Beat, stack_file

ANSWER_SECONDS = 3.0
"""How long a process may take to write its stack; one that was stopped writes none."""
_SAME_PROCESS_SECONDS = 2.0
_HEAD = re.compile(r"(?:Current thread|Thread) (0x[0-9a-f]+)")
_FRAME = re.compile(r'  File "(.+)", line (\d+) in (.+)')
_WAITING = ("/torch/distributed/", "/torch/nn/parallel/", "/torch/autograd/graph.py", "/accelerate/utils/operations.py")
"""Where a process waits for others: in a collective, or in a backward pass, which adds up gradients as it goes."""
_LIBRARY = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen")


def alive(beat: Beat) -> bool:
    """Whether the process that told it still runs."""
    try:
        process = psutil.Process(beat.pid)
        same = abs(process.create_time() - beat.created) < _SAME_PROCESS_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def work_done(pid: int) -> Sequence[str]:
    """What changes while the main thread of a process works: its time on a core, and what it read and wrote.

    Of the whole process what went to and came from a disk, since a download has threads of its own. Empty where the
    system does not tell.
    """
    own, whole = Path(f"/proc/{pid}/task/{pid}"), Path(f"/proc/{pid}")
    times = _content(own / "stat").rpartition(")")[2].split()[11:13]
    moved = [line for line in _content(own / "io").splitlines() if line.startswith(("rchar", "wchar"))]
    disk = [line for line in _content(whole / "io").splitlines() if line.startswith(("read_bytes", "write_bytes"))]
    return (*times, *moved, *disk)


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True)
class Standing:
    """Where a main thread stands."""

    answers: bool
    frames: Sequence[tuple[str, int, str]] = ()
    """(file, line, function), the innermost first."""

    @property
    def waits(self) -> bool:
        """Whether it waits for other processes, as far as its stack tells."""
        return bool(self.frames) and any(part in self.frames[0][0] for part in _WAITING)

    @property
    def place(self) -> str:
        """The innermost line of code that is no library's, else the innermost of all; "" where there is none."""
        own = [frame for frame in self.frames if not any(part in frame[0] for part in _LIBRARY)]
        file, line, function = next(iter([*own, *self.frames]), ("", 0, ""))
        return f"{file}:{line} in {function}" if file else ""


def standings(folder: Path, beats: Mapping[int, Beat]) -> dict[int, Standing]:
    """Ask processes where their main threads stand; by rank."""
    began: dict[int, int] = {}
    for rank, beat in beats.items():
        if beat.thread:
            with suppress(OSError):
                began[rank] = stack_file(folder, rank).stat().st_size
                os.kill(beat.pid, signal.SIGUSR2)
    until, found = time.monotonic() + ANSWER_SECONDS, dict[int, Standing]()
    while began.keys() - found.keys() and time.monotonic() < until:
        time.sleep(0.05)
        for rank in began.keys() - found.keys():
            frames = _frames(stack_file(folder, rank), began[rank], beats[rank].thread)
            if frames:
                found[rank] = Standing(answers=True, frames=frames)
    return {rank: found.get(rank, Standing(answers=rank not in began)) for rank in beats}


def _frames(file: Path, begin: int, thread: int) -> list[tuple[str, int, str]]:
    """The frames of a thread in what was written behind `begin`; none before all of it is there."""
    frames: list[tuple[str, int, str]] = []
    with suppress(OSError):
        inside = False
        for line in file.read_bytes()[begin:].decode("utf-8", "replace").splitlines():
            if head := _HEAD.match(line):
                inside = int(head[1], 16) == thread
            elif inside and (frame := _FRAME.match(line)):
                frames.append((frame[1], int(frame[2]), frame[3]))
    return frames
