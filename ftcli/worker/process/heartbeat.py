"""This process tells where it is: to the front half, which ends a run that no longer gets on, and to end.json.

The main thread beats as it works, and no other does for it: a thread of its own would beat for one that hangs.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil

from ftcli.core.untrusted.printable import one_line
from ftcli.runs.beats import CHANNEL, TRAINING, Beat, Channel, stack_file
from ftcli.worker.process import own_lines

ASKS_FOR_STACK = signal.SIGUSR2
"""The signal at which a process writes what its threads are at, also where its main thread hangs."""

_NAMELESS = "going on"
_PASS_SECONDS = 0.2

_beat = Beat(pid=os.getpid())
_passed_at = 0.0
_channel: Channel | None = None
_stack: IO[str] | None = None


def begin() -> None:
    """Tell from now on whoever started this process, if that wants to know; call it in the main thread."""
    global _beat, _channel, _stack
    folder, own = os.environ.get(CHANNEL), psutil.Process()
    rank, local = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    _beat, _channel = Beat(pid=own.pid, created=own.create_time(), rank=rank, local=local), None
    if not folder:
        return
    try:
        _channel = Channel(Path(folder), local)
        _stack = open(stack_file(Path(folder), _beat.rank), "w")  # noqa: SIM115, lives as long as the process
    except OSError as error:
        own_lines.say(f"this process cannot tell how it gets on, and is not watched: {error}")
        return
    faulthandler.register(ASKS_FOR_STACK, _stack, all_threads=True)
    _tell(replace(_beat, thread=threading.get_ident()))


def phase(name: str) -> None:
    """Begin something other than the step of before; "" is what has no name."""
    if _in_main_thread():
        _tell(replace(_beat, phase=name or _NAMELESS, mark=0))


def step_begins(step: int) -> None:
    """Begin a step of training."""
    _tell(replace(_beat, phase=TRAINING, step=step, mark=0))


def passes() -> None:
    """Pass a point of what was begun: a part of a step, a batch of an evaluation."""
    global _passed_at
    now = time.monotonic()
    # Rows pass by the thousand a second; how far a step is must be exact.
    if _in_main_thread() and (_beat.phase == TRAINING or now - _passed_at > _PASS_SECONDS):
        _passed_at = now
        _tell(replace(_beat, mark=_beat.mark + 1))


def failed(message: str) -> None:
    """Keep why this process is about to leave."""
    global _beat
    _beat = replace(_beat, message=one_line(message))


def leaves(code: int) -> None:
    """Tell that this process leaves."""
    _tell(replace(_beat, code=code, at=time.monotonic()))


def now() -> Beat:
    """Where this process is."""
    return _beat


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _tell(beat: Beat) -> None:
    global _beat
    _beat = replace(beat, count=beat.count + 1)
    if _channel is not None and _beat.pid == os.getpid():  # and not a fork that reads rows
        with suppress(OSError):
            _channel.write(_beat)
