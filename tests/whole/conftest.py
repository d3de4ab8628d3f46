"""Whole commands. A real process costs a worker's imports: what is not about that is forked (tests/warm.py)."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ranks import TIMEOUT_SECONDS, Ranks, environment, steps
from tests.warm import Command, Warm

__all__ = ["Ranks", "environment", "steps"]

Train = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "Command | subprocess.Popen[bytes]"]


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file and folder below `folder`, byte for byte, and when it was written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in (folder, *folder.rglob("*"))
    }


def end(parent: Command | subprocess.Popen[Any], number: int = signal.SIGKILL) -> None:
    """Send a command and the workers that it started a signal, workers first, and wait until they are gone."""
    family = [psutil.Process(parent.pid)] if parent.poll() is None else []
    family = [*(child for each in family for child in each.children(recursive=True)), *family]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    parent.wait()
    _, left = psutil.wait_procs(family, timeout=TIMEOUT_SECONDS)
    assert not left


@pytest.fixture(scope="session")
def ftcli_run(warm: Warm | None) -> Train:
    """Run one ftcli command to its end, its output captured; forked, or with real=True as a user starts it."""

    def run(
        *words: str, cwd: Path, expect: int | None = 0, real: bool = False, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        # What a library reads of the environment while it is imported, a fork cannot be told.
        if real or warm is None or extra.keys() - {"OMP_NUM_THREADS", "HF_TOKEN"}:
            done = subprocess.run(
                [sys.executable, "-m", "ftcli", *words],
                cwd=cwd,
                env=environment(**extra),
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        else:
            done = warm.run(words, cwd, environment(**extra), TIMEOUT_SECONDS)
        if expect is not None:
            assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def ftcli_start(warm: Warm | None) -> Start:
    """Start one ftcli command, forked, in a session of its own, for tests of what comes after it was ended."""

    def start(*words: str, cwd: Path, module: str = "ftcli", **extra: str) -> Command | subprocess.Popen[bytes]:
        if warm is not None:
            return warm.start(words, cwd, environment(**extra), module)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [sys.executable, "-m", module, *words]
        return subprocess.Popen(command, cwd=cwd, env=environment(**extra), start_new_session=True, **quiet)

    return start
