"""Whole commands: real processes, as a user starts them. Each costs a worker's imports, so there are few."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftcli import rundir

TIMEOUT_SECONDS = 300

Train = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**extra: str) -> dict[str, str]:
    """An environment without network and without the caller's caches."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", **extra}


def steps(run: Path) -> list[dict[str, float]]:
    """What was logged of each step."""
    lines = map(json.loads, (run / rundir.METRICS).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "loss" in line]


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file and folder below `folder`, byte for byte, and when it was written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in (folder, *folder.rglob("*"))
    }


@pytest.fixture
def ftcli_run() -> Train:
    """Run one ftcli command to its end, its output captured."""

    def run(*words: str, cwd: Path, expect: int | None = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "ftcli", *words],
            cwd=cwd,
            env=environment(**extra),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
