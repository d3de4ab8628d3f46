"""Whether the disk takes a file that is about to be written, asked before its first byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from ftcli.core.errors import DiskError, Problem


def require_space(trainer: Any, folder: Path, needed: int, what: str) -> None:
    """Check that there is room for what the first process writes; every process must call this, and all end alike.

    Args:
        needed: bytes; 0 where that is not known.
        what: what is written, for the message.

    Raises:
        DiskError: there is not.
    """
    place = folder if folder.is_dir() else folder.parent
    asked = [needed, shutil.disk_usage(place).free]
    if trainer.args.world_size > 1:  # another process may see the disk a moment later, or another disk
        asked = broadcast_object_list(asked)
    needed, free = asked
    if needed > free:
        told = f"{what} takes about {_mib(needed)}, and {_mib(free)} are free"
        raise DiskError(Problem(str(folder), told, "free some space, then resume"))


def require_room(folder: Path, needed: int, what: str) -> None:
    """Check that the disk of a folder, which need not exist yet, has room for what one process writes there.

    Raises:
        DiskError: it has not.
    """
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        told = f"{what} takes about {_mib(needed)}, and {_mib(free)} are free"
        raise DiskError(Problem(str(folder), told, "free some space, or name a folder on another disk"))


def _mib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
