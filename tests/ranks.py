"""Runs of several processes on the CPU, as a launcher would start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.runs import rundir
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from tests.warm import Warm

TIMEOUT_SECONDS = 1200
"""Of a command that takes twenty seconds, on a machine that is busy with other things."""

Ranks = Callable[..., None]


def environment(**extra: str) -> dict[str, str]:
    """An environment without network and without the caller's caches."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", **extra}


def steps(run: Path) -> list[dict[str, float]]:
    """What was logged of each step."""
    lines = map(json.loads, (run / rundir.METRICS).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "loss" in line]


def evaluations(run: Path) -> list[dict[str, float]]:
    """What was logged of each evaluation."""
    lines = map(json.loads, (run / rundir.METRICS).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if any(name.startswith("eval_") for name in line)]


def start(warm: Warm | None, module: str, *words: str, cwd: Path, number: int) -> subprocess.CompletedProcess[str]:
    """Run so many processes of a module to their end; forked where that can be."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    env = environment(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1", PYTHONPATH=path)
    if warm is not None:
        return warm.run(words, cwd, env, TIMEOUT_SECONDS, module=module, ranks=number if number > 1 else 0)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}"]
    return subprocess.run(
        [sys.executable, *launcher[: 4 * (number > 1)], "-m", module, *words],
        cwd=cwd, env=env, check=False, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip


def runner(warm: Warm | None) -> Ranks:
    """Runs so many processes of a module to their end, which must be a good one."""

    def run(module: str, *words: str, cwd: Path, number: int) -> None:
        done = start(warm, module, *words, cwd=cwd, number=number)
        assert done.returncode == 0, done.stderr

    return run
