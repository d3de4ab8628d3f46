"""kill -9 and damage, then --resume: the weights are those of the run that nobody killed, bit for bit.

A sample of `make chaos`, whose cases these are (tests/chaos/kills.py, tests/chaos/damage.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from ftcli.launch.local import newest_checkpoint
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec
from tests.chaos import damage, kills, victims
from tests.conftest import MakeOnce
from tests.warm import Warm
from tests.whole.conftest import TIMEOUT_SECONDS, Train

KIND = "lora"
SAMPLE = [case for case in kills.plan() if case.kind == KIND and case.number in (1, 2, 3, 5, 7)]
"""In a save, at a rename, while the model is saved, and anywhere, started as a user starts it."""
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="session")
def uninterrupted(once: MakeOnce, warm: Warm | None) -> Path:
    """One whole run."""
    folder = once("uninterrupted", lambda folder: kills.Bench(folder, warm).uninterrupted(KIND))
    return folder / f"{KIND}-whole" / kills.RUN


@pytest.fixture
def bench(uninterrupted: Path, warm: Warm | None, tmp_path: Path) -> kills.Bench:
    """Where cases are carried out."""
    return kills.Bench(tmp_path, warm, {KIND: uninterrupted})


def weights(run: Path) -> bytes:
    """The trained adapter, byte for byte."""
    return (run / rundir.MODEL / WEIGHTS).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: f"{case.moment}-{case.target}")
def test_a_killed_run_resumes_bit_identically(case: kills.Case, bench: kills.Bench):
    assert bench.carry_out(case).faults == []


def test_the_comparison_sees_what_differs(uninterrupted: Path, tmp_path: Path):
    run, same = (Path(shutil.copytree(uninterrupted, tmp_path / name)) for name in ("a", "b"))
    assert kills.differences(run, same) == []
    raw = bytearray(weights(run))
    raw[-1] ^= 1
    (run / rundir.MODEL / WEIGHTS).write_bytes(bytes(raw))
    result = rundir.read_result(run) or {}
    rundir.write_json(run / rundir.RESULT, {**result, "seconds": 1e9})
    assert kills.differences(run, same) == [f"{rundir.MODEL}/{WEIGHTS} differs"]
    rundir.write_json(run / rundir.RESULT, {**result, "loss_last": 0.0})
    assert kills.differences(run, same) == [f"{rundir.MODEL}/{WEIGHTS} differs", f"{rundir.RESULT} differs"]


def test_the_plan_has_what_was_promised():
    cases = kills.plan()
    assert len(cases) == 200
    assert len({case.name for case in cases}) == 200
    assert sum(case.moment in ("save", "rename", "model") for case in cases) >= 120  # of which 80 land at the least
    single = {case.target for case in cases if not kills.KINDS[case.kind].launched}
    assert single == {victims.WORKER, victims.PARENT, victims.GROUP}
    assert {case.target for case in cases} == {*single, victims.LAUNCHER}
    assert {name for name, kind in kills.KINDS.items() if kind.making} == {"online_dpo", "constitutional"}
    assert len(damage.DAMAGES) >= 24


@pytest.mark.parametrize("name", damage.DAMAGES)
def test_each_damage_is_named_and_the_checkpoint_before_taken(name: str, uninterrupted: Path, tmp_path: Path):
    run, each = damage.halted(uninterrupted, tmp_path), damage.DAMAGES[name]
    *_, before, newest = damage.sealed(run / rundir.CHECKPOINTS)
    [stands] = damage.damaged(run, "newest", each)
    said: list[str] = []
    found = newest_checkpoint(run, files_to_resume(RunSpec.load(run / rundir.SPEC)), said.append)
    assert found == (before if each.every else newest)
    [line] = said
    assert f"{stands} is damaged" in line
    assert each.reason in line


@pytest.mark.parametrize("case", ["newest:truncated optimizer.pt", "newest:renamed", "all:flipped adapter_exact.pt"])
def test_a_damaged_checkpoint_is_passed_over_or_the_resume_refused(case: str, bench: kills.Bench):
    assert damage.carry_out(case, bench).faults == []


def test_from_reproduces_a_run_bit_for_bit(uninterrupted, tmp_path, ftcli_run: Train):
    ftcli_run("train", "--from", str(uninterrupted), "run.dir=again", cwd=tmp_path)
    assert weights(tmp_path / "again") == weights(uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_a_checkpoint_no_process_and_says_how_to_go_on(
    number, uninterrupted, tmp_path, ftcli_run: Train
):
    run = tmp_path / kills.RUN
    with victims.start(("train", *kills.words_of(KIND)), tmp_path, warm=None) as parent:
        family = victims.Family(parent)
        while not (run / rundir.METRICS).is_file() or not (run / rundir.METRICS).read_text():
            assert parent.poll() is None
            time.sleep(0.01)
        family.look(now=True)
        os.kill(parent.pid, number)
        assert parent.wait(timeout=TIMEOUT_SECONDS) == 75
    assert f"ftcli train --resume {run}" in victims.said(parent, tmp_path)
    assert list((run / rundir.CHECKPOINTS).glob("checkpoint-*"))
    assert family.settle() == []
    if number == signal.SIGTERM:
        ftcli_run("train", "--resume", kills.RUN, cwd=tmp_path)
        assert weights(run) == weights(uninterrupted)
