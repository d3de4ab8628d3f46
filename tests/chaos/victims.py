"""Commands under way, the moment at which to end them, and their processes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from ftcli.runs import rundir
from ftcli.runs.checkpoints import MANIFEST, staging_path
from ftcli.synthesis.journal import ITEMS
from ftcli.synthesis.runner import DATA
from ftcli.synthesis.synthesis_spec import FILE as MAKE
from tests.ranks import TIMEOUT_SECONDS, environment
from tests.warm import Command, Warm

UNDERWAY = (staging_path(Path(), "").name, ".trash-")
"""How the names begin of what is being written or removed."""
WORKER, PARENT, LAUNCHER, GROUP = "worker", "parent", "launcher", "group"
_SAID = "said.txt"
_LAUNCHER = "accelerate.commands.launch"
_LOOK_SECONDS = 0.0005
_FAMILY_SECONDS = 0.2
Parent = Command | subprocess.Popen[Any]


def start(words: Sequence[str], folder: Path, warm: Warm | None) -> Parent:
    """Start an ftcli command in a folder, in a session of its own; without a warm worker as a user starts it.

    `said` gives what it says.
    """
    if warm is not None:
        return warm.start(words, folder, environment(OMP_NUM_THREADS="1"))
    with open(folder / _SAID, "ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "ftcli", *words], cwd=folder, env=environment(OMP_NUM_THREADS="1"),
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip


def said(parent: Parent, folder: Path) -> str:
    """What a command that has ended said."""
    return parent.said()[1] if isinstance(parent, Command) else (folder / _SAID).read_text(encoding="utf-8")


class Family:
    """A command and the processes that it started."""

    def __init__(self, parent: Parent) -> None:
        self._parent, self._looked = parent, 0.0
        self.members: list[psutil.Process] = []

    def look(self, *, now: bool = False) -> None:
        """Find its processes, if that was not done a moment ago: it takes longer than a save of a tiny model."""
        if not now and time.monotonic() - self._looked < _FAMILY_SECONDS:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            head = psutil.Process(self._parent.pid)
            known = {member.pid for member in self.members}
            self.members += [each for each in (head, *head.children(recursive=True)) if each.pid not in known]
        self._looked = time.monotonic()

    def _others(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """Its processes but the command itself that are still there: launchers of several workers, and workers."""
        found: tuple[list[psutil.Process], list[psutil.Process]] = ([], [])
        for member in self.members:
            with contextlib.suppress(psutil.NoSuchProcess):
                if member.pid != self._parent.pid and member.status() != psutil.STATUS_ZOMBIE:
                    found[_LAUNCHER not in member.cmdline()].append(member)
        return found

    def victims(self, target: str, chance: random.Random) -> list[psutil.Process]:
        """The processes to end: a worker, the command itself, the launcher of several workers, or all of them."""
        if target == PARENT:
            return [member for member in self.members if member.pid == self._parent.pid]
        if target == GROUP:
            return self.members
        launchers, workers = self._others()
        wanted = launchers if target == LAUNCHER else workers
        return [chance.choice(wanted)] if wanted else self.members[:1]

    def kill(self, target: str, chance: random.Random) -> None:
        """Send SIGKILL."""
        if not self._others()[1]:  # the workers known were those of a stage before
            self.look(now=True)
        for victim in self.victims(target, chance):
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)

    def settle(self) -> list[str]:
        """Wait until none of its processes is left; returns what still stands then."""
        _, left = psutil.wait_procs(self.members, timeout=TIMEOUT_SECONDS)
        return [f"{each} did not end" for each in left]


# --- moments -------------------------------------------------------------------------------------------------

Moment = Callable[[Path], bool]
"""Whether it has come, for the folder of a run or a pipeline."""


def underway(run: Path) -> list[Path]:
    """What is being written or removed in a run, or in the stages of a pipeline."""
    folders = [run, run / rundir.CHECKPOINTS]
    for name in _names(run):
        if name != rundir.CHECKPOINTS:
            folders += [run / name, run / name / rundir.CHECKPOINTS]
    return [folder / name for folder in folders for name in _names(folder) if name.startswith(UNDERWAY)]


def _names(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def save(number: int, files: int) -> Moment:
    """Within the save of a checkpoint, once so many files are there or it is over.

    Args:
        number: of the saves so far, from 1.
    """
    return _nth(number, rundir.CHECKPOINTS, "", lambda staging: _num_files(staging) >= files)


def rename(number: int) -> Moment:
    """Within the save of a checkpoint, once it has its manifest: it is made durable and renamed then."""
    return _nth(number, rundir.CHECKPOINTS, "", lambda staging: any(staging.glob(f"*/{MANIFEST}")))


def model(number: int, files: int) -> Moment:
    """Within the save of a trained model, once so many files are there or it is over."""
    return _nth(number, "", rundir.MODEL, lambda staging: _num_files(staging) >= files)


def _nth(number: int, inside: str, name: str, come: Callable[[Path], bool]) -> Moment:
    """Of the folders that are written in turn the one of that number, once it is as wanted, or gone.

    Args:
        inside: the name of the folder that it is in; "" for any.
        name: how its own name ends.
    """
    seen: list[Path] = []

    def look(run: Path) -> bool:
        found = [each for each in underway(run) if each.parent.name == (inside or each.parent.name)]
        seen.extend(each for each in found if each.name.endswith(name) and each not in seen)
        return len(seen) >= number and (not seen[number - 1].exists() or come(seen[number - 1]))

    return look


def _num_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def logged(lines: int, seconds: float) -> Moment:
    """So many seconds after so many lines of metrics were written, over all stages; after the start for none."""
    since = [] if lines else [time.monotonic()]

    def look(run: Path) -> bool:
        if not since and num_logged(run) >= lines:
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= seconds

    return look


def num_logged(run: Path) -> int:
    """The lines of metrics of a run, or of the stages of a pipeline."""
    files = [run / rundir.METRICS, *(run / name / rundir.METRICS for name in _names(run))]
    return sum(file.read_bytes().count(b"\n") for file in files if file.is_file())


def making(stage: str, file: str) -> Moment:
    """While a stage of a pipeline makes rows, once a file of it is there."""
    return lambda run: (
        bool(_names(run / stage))
        and (os.path.exists(run / stage / file) or os.path.exists(run / stage / rundir.RESULT))
    )


MADE = (MAKE, ITEMS, DATA)
"""The files of a stage that makes rows, in the order in which they appear."""


def wait_for(moment: Moment, run: Path, parent: Parent, family: Family) -> bool:
    """Wait for the moment; False: the command ended before."""
    while not moment(run):
        if parent.poll() is not None:
            return False
        family.look()
        time.sleep(_LOOK_SECONDS)
    return parent.poll() is None
