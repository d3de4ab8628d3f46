"""The signals that ask ftcli to stop, in both halves: each means the same, and none is a crash.

Without a handler, all but the first would end a process where it stands, and SIGQUIT would write a core dump.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MEANINGS: dict[str, str] = {
    "SIGINT": "Ctrl-C",
    "SIGTERM": "`kill`, a scheduler or a service manager that ends a job",
    "SIGHUP": "a terminal that is closed; ignored where it was ignored at the start, as under `nohup`",
    "SIGUSR1": "some schedulers, a while before their limit",
    "SIGQUIT": "Ctrl-\\; writes no core dump",
}
"""Each signal that stops, and who sends it."""
STOPS = tuple(int(getattr(signal, name)) for name in MEANINGS if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal asks to stop.

    Attributes:
        reported: whether the user has been told.
    """

    def __init__(self, name: str, while_doing: str = "", *, reported: bool = False) -> None:
        super().__init__(f"stopped by {name}" + (f" while {while_doing}" if while_doing else ""))
        self.name, self.reported = name, reported

    @property
    def number(self) -> int:
        """The signal."""
        return int(getattr(signal, self.name))


def name_of(number: int) -> str:
    """The name of a signal: SIGTERM."""
    return signal.Signals(number).name


@contextmanager
def handled(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Let a function handle the signals that stop; in the main thread, which alone can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in STOPS if not _ignored_hangup(number)]
    before = {number: signal.signal(number, handle) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def interrupt(number: int, _frame: object) -> None:
    """The handler that stops at once.

    Raises:
        Stopped: always.
    """
    raise Stopped(name_of(number))


@contextmanager
def held_back() -> Iterator[None]:
    """Hold signals back until the block ends. A process that is started in it holds them back until it lets them in:
    none is lost, and none ends it, before it can handle them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_in() -> None:
    """Receive the signals that were held back when this process was started."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def send(pid: int, number: int) -> None:
    """Send a signal to a process, if it is still there."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _ignored_hangup(number: int) -> bool:
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN
