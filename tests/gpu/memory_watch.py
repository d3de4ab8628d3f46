"""The most memory that a command takes while it runs, seen from outside: of the card, or of the processes on a CPU."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_GIB = 2**30
_EVERY_SECONDS = 0.02


@dataclass
class Peak:
    """What was seen so far, in GiB, above what was taken before."""

    gib: float = 0.0


@contextlib.contextmanager
def watched(device: str) -> Iterator[Peak]:
    """Watch until the block ends. On a card nobody else may start or end anything meanwhile."""
    with _reader(device) as read:
        before, peak, over = read(), Peak(), threading.Event()

        def watch() -> None:
            while True:
                peak.gib = max(peak.gib, (read() - before) / _GIB)
                if over.wait(_EVERY_SECONDS):
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield peak
        finally:
            over.set()
            watcher.join()


@contextlib.contextmanager
def _reader(device: str) -> Iterator[Callable[[], float]]:
    if device != "cuda":
        yield _of_children
        return
    import pynvml

    pynvml.nvmlInit()
    try:
        # The check chose one card for all that it starts, and named it so.
        card = pynvml.nvmlDeviceGetHandleByUUID(os.environ["CUDA_VISIBLE_DEVICES"])
        yield lambda: float(pynvml.nvmlDeviceGetMemoryInfo(card).used)
    finally:
        pynvml.nvmlShutdown()


def _of_children() -> float:
    """Resident bytes of all processes that this one started."""
    import psutil

    total = 0.0
    for child in psutil.Process(os.getpid()).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += child.memory_info().rss
    return total
