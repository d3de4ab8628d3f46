"""The worker, with a fault that is planted in the third step of one of its processes.

python -m tests.whole.faulty_worker FAULT RANK train RUN [--resume CHECKPOINT]

What fails is the real thing, under limits that the kernel sets, without files that were there, or without a connection.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEP = 3
_RUN = Path(sys.argv[4]) if __name__ == "__main__" else Path()


def memory() -> None:
    """Takes more memory than the process may have."""
    import torch

    most = 4 << 30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    torch.zeros(2 * most, dtype=torch.uint8)


def python_memory() -> None:
    """The same of Python's own allocator."""
    most = 4 << 30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    bytearray(2 * most)


def disk() -> None:
    """From now on no file may be larger than 4 KiB: the next checkpoint cannot be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def folder() -> None:
    """The run's folder vanishes."""
    shutil.rmtree(_RUN)


def checkpoints() -> None:
    """A file is where the checkpoints were."""
    shutil.rmtree(_RUN / "checkpoints", ignore_errors=True)
    (_RUN / "checkpoints").touch()


def connection() -> None:
    """Nobody answers where rows are fetched from."""
    import httpx2

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    httpx2.get(f"http://127.0.0.1:{port}/rows.jsonl")


def bug() -> None:
    """An error of nobody's making but ours."""
    raise LookupError("the planted bug")


def killed() -> None:
    """Ends without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def aborted() -> None:
    """Ends as a library in C++ does that gets no memory, in a thread of its own."""
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def stopped() -> None:
    """Stands still without an end, as a debugger or a frozen machine would have it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def hangs() -> None:
    """Never comes back."""
    while True:
        time.sleep(1)


def none() -> None:
    """Nothing fails."""


FAULTS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        memory, python_memory, disk, folder, checkpoints, connection, bug, killed, aborted, stopped, hangs, none,
    )
}  # fmt: skip


def plant(fault: str, rank: str) -> None:
    """Have the process of that rank fail as its third step begins."""
    from ftcli.worker.process.step_beats import StepBeats

    begins = StepBeats.on_step_begin

    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        begins(self, args, state, control, **more)
        if state.global_step + 1 == STEP and os.environ.get("RANK", "0") == rank:
            FAULTS[fault]()

    StepBeats.on_step_begin = on_step_begin  # type: ignore[method-assign]


if __name__ == "__main__":
    from ftcli.worker.__main__ import leave, main
    from ftcli.worker.process import deferred_imports

    deferred_imports.defer()
    plant(*sys.argv[1:3])
    leave(main(sys.argv[3:]), sys.argv[3:])
