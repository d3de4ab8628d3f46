"""Ends what a stranger's pattern or template makes endless, by the processor time that it takes.

A timer of the process, not of the clock, so that a busy machine ends nothing that an idle one would not. It reaches
Python code and the matching of regular expressions, which look for signals; both limits of memory and counts of steps
stand beside it where a single operation could be endless.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class OutOfTime(Exception):
    """The block took longer than its limit."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise OutOfTime inside the block once it has taken so much processor time.

    Without effect outside the main thread, where no signal arrives, and on systems without such a timer.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def end(_number: int, _frame: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
