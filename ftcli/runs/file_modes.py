"""Files as readable as the user's umask says, whoever wrote them: safetensors makes every file readable by its owner
alone, so that a model in a shared folder could be listed and not loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def as_created(files: Iterable[Path]) -> None:
    """Give each file the mode that `open` gives to a new one beside it.

    Asked of a file and not of the umask, which a process can read only by setting it, for its other threads too, and
    which a folder with a default access list overrides.
    """
    modes = dict[Path, int]()
    for file in files:
        if file.parent not in modes:
            modes[file.parent] = _mode_in(file.parent)
        if file.stat().st_mode & 0o777 != modes[file.parent]:
            file.chmod(modes[file.parent])


def _mode_in(folder: Path) -> int:
    probe = folder / f".mode.{os.getpid()}"
    try:
        with open(probe, "wb") as file:
            return os.fstat(file.fileno()).st_mode & 0o777
    finally:
        probe.unlink(missing_ok=True)
