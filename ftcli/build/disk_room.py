"""The free space beside what runs will write."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ftcli.core.paths import cache_folder
from ftcli.plan.disk import DiskEstimate, size
from ftcli.plan.memory import GIB


class Room(NamedTuple):
    """The free space beside what is to be written there."""

    place: Path
    """The folder that exists already, in which the run directory is or will be."""
    needs_gib: float
    free_gib: float

    def __str__(self) -> str:
        return f"{size(self.needs_gib)}, {self.free}"

    @property
    def free(self) -> str:
        """The free space, as text."""
        return f"{size(self.free_gib)} free at {self.place}"


def room(place: Path, estimates: Sequence[DiskEstimate], written: int = 0) -> Room:
    """The room for runs whose directories lie in a folder.

    Args:
        written: bytes that are there already, as of a run that is resumed.
    """
    there, cache = _existing(place), _existing(cache_folder("prepared"))
    needs = max(0.0, sum(each.run_gib for each in estimates) - written / GIB)
    if there.stat().st_dev == cache.stat().st_dev:
        needs += max((each.cache_gib for each in estimates), default=0.0)
    usage = shutil.disk_usage(there)
    # A file system without a size of its own, as /proc, says nothing.
    return Room(there, needs, (usage.free if usage.total else math.inf) / GIB)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    found = path.absolute()
    while not found.is_dir() and found != found.parent:
        found = found.parent
    return found


def bytes_below(folder: Path) -> int:
    """The size of all files below a folder."""
    found = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            found += os.lstat(os.path.join(parent, name)).st_size
    return found
