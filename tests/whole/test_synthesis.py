"""A data-making stage with the built-in model, killed at random moments: ten times in `make proof`, twice in a test."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil

from ftcli import tiny
from ftcli.runs import rundir
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis.synthesis_spec import FILE, SynthesisSpec
from tests.whole.conftest import Start

KILLS = 10 if os.environ.get("FTCLI_PROOF") else 2
ITEMS = 96 * KILLS
LONGEST_SECONDS = 0.3
"""Of the worker's own processor time, after an item was written, until the kill; a batch takes about a tenth."""


def stage(folder: Path) -> Path:
    """A folder with two answers to be sampled to each prompt."""
    folder.mkdir()
    spec = SynthesisSpec(
        task="generate", seed=1, dir=str(folder), rows=str(folder.parent / "prompts.jsonl"), role="generator",
        backend=BackendSettings(model=str(tiny.MODEL_DIR), batch_size=16),
        settings={"n": 2, "max_new_tokens": 16},
    )  # fmt: skip
    rundir.write_atomically(folder / FILE, spec.to_json())
    return folder


def spent(pid: int) -> float:
    """Seconds of the processor that a process has had: the clock of its work, however busy the machine is."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def finished(folder: Path) -> int:
    """Items that are written."""
    journal = folder / "items.jsonl"
    return journal.read_bytes().count(b"\n") if journal.is_file() else 0


def test_a_killed_stage_makes_every_item_once_and_the_rows_of_an_uninterrupted_one(tmp_path, ftcli_start: Start):
    prompts = [json.dumps({"prompt": f"The red house number {i}"}) + "\n" for i in range(ITEMS)]
    (tmp_path / "prompts.jsonl").write_text("".join(prompts), encoding="utf-8")
    whole, killed = stage(tmp_path / "whole"), stage(tmp_path / "killed")

    def start(folder: Path) -> Any:
        return ftcli_start("synthesise", str(folder), cwd=tmp_path, module="ftcli.worker")

    with start(whole) as worker:
        assert worker.wait() == 0
    rng, kills = random.Random(7), 0
    while True:
        before = finished(killed)
        with start(killed) as worker:
            if kills < KILLS:
                while finished(killed) <= before:
                    assert worker.poll() is None, "the stage ended before it could be killed"
                    time.sleep(0.002)
                until = spent(worker.pid) + rng.uniform(0, LONGEST_SECONDS)
                while worker.poll() is None and spent(worker.pid) < until:
                    time.sleep(0.002)
                worker.send_signal(signal.SIGKILL)
            if worker.wait() == 0:
                break
            kills += 1
    assert kills == KILLS
    assert (killed / "data.jsonl").read_bytes() == (whole / "data.jsonl").read_bytes()
    lines = [json.loads(line) for line in (killed / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == ITEMS
    ours, theirs = (json.loads((each / rundir.RESULT).read_text())["sha256"] for each in (killed, whole))
    assert ours == theirs
