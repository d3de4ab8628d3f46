"""A worker ends with the process that started it: nobody would read the result of an orphan."""

from __future__ import annotations

import os
import threading
import time

import psutil

from ftcli.core.exit_codes import EXIT_INTERRUPTED

PARENT = "FTCLI_PARENT"
"""Environment variable that names the process to watch, as pid:create_time (psutil's, in seconds)."""

_POLL_SECONDS = 0.5
# psutil derives the time from the boot time, which clock adjustments shift a little.
_SAME_PROCESS_SECONDS = 2.0
_watches = False


def die_with_parent() -> None:
    """Watch the process that FTCLI_PARENT names, and end this one as interrupted when that is gone."""
    global _watches
    pid, _, created = os.environ.get(PARENT, "").partition(":")
    if pid and not _watches:
        _watches = True
        threading.Thread(target=_watch, args=(int(pid), float(created)), daemon=True).start()


def _watch(pid: int, created: float) -> None:
    while _alive(pid, created):
        time.sleep(_POLL_SECONDS)
    os._exit(EXIT_INTERRUPTED)


def _alive(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < _SAME_PROCESS_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
