"""What each process of a run tells the front half of its machine: where it is, that it gets on, and how it left.

A file a process, of fixed size and overwritten in place, in a temporary folder of the machine: a beat is one small
write, which needs neither room on a disk nor a file system that machines share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ftcli.core.untrusted import foreign_files

CHANNEL = "FTCLI_BEATS"
"""Environment variable that names the folder."""
STARTING = "starting"
TRAINING = "training"
"""The phase in which nothing but a step counts as progress."""
_NAME = "process-"
_BYTES = 4096
_LONGEST_MESSAGE = 600


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a process last told of itself."""

    pid: int
    created: float = 0.0
    """When it started, as psutil tells it: another process may have its number by now."""
    rank: int = 0
    local: int = 0
    """Its number on its machine, which stays when torch's launcher starts it again, while its rank may not."""
    count: int = 0
    """Of its beats so far."""
    phase: str = STARTING
    step: int | None = None
    """The step that it works on, or the last one; None before the first."""
    mark: int = 0
    """How many points of this step it has passed."""
    thread: int = 0
    """Its main thread, as its stack names it; 0 where it cannot be asked for that."""
    code: int | None = None
    """The exit code that it leaves with; None while it is at work."""
    message: str = ""
    """Why it leaves."""
    at: float = 0.0
    """When it left, by the machine's monotonic clock."""


class Channel:
    """Where one process writes its beats."""

    def __init__(self, folder: Path, local: int) -> None:
        """
        Args:
            local: the number of the process on its machine.

        Raises:
            OSError: the folder is gone, or full.
        """
        self._file = os.open(folder / f"{_NAME}{local}", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._file, b" " * _BYTES, 0)  # what comes later replaces it, and needs no further room

    def write(self, beat: Beat) -> None:
        """Replace the last beat."""
        beat = replace(beat, message=beat.message[:_LONGEST_MESSAGE])
        os.pwrite(self._file, json.dumps(asdict(beat), ensure_ascii=False).encode().ljust(_BYTES)[:_BYTES], 0)


def stack_file(folder: Path, rank: int) -> Path:
    """Where a process writes its stack when it is asked to."""
    return folder / f"stack-{rank}"


def read_all(folder: Path, before: Mapping[int, Beat]) -> dict[int, Beat]:
    """The last beat of each process by rank; the one of before where it is being written at this moment."""
    known, found = {beat.local: beat for beat in before.values()}, {}
    for file in folder.glob(f"{_NAME}*"):
        beat: Beat | None
        try:
            beat = Beat(**foreign_files.read_json(file))
        except (OSError, ValueError, TypeError):
            beat = known.get(int(file.name.removeprefix(_NAME)))
        if beat is not None:
            found[beat.rank] = beat
    return found
