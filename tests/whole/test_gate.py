"""A run that forgets does not pass its gate: it is whole, its model is saved, and it ends with exit code 9."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.core.exit_codes import EXIT_GATE, EXIT_INTERRUPTED
from ftcli.runs import run_end, rundir
from ftcli.runs.model_card import CARD
from ftcli.runs.run_state import run_state
from tests.warm import possible
from tests.whole.conftest import TIMEOUT_SECONDS, Start, Train

PROOF = bool(os.environ.get("FTCLI_PROOF"))
QUICK = (
    "model=tiny", "data.path=rows.jsonl", "train.max_steps=6", "train.learning_rate=3e-2", "train.logging_steps=1",
    "peft=lora", "run.score_rows=0", "hardware=cpu", "hardware.num_threads=1", "run.dir=run",
)  # fmt: skip
GATE = "run.gate={retention: -0.5, odd: -0.5}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows that teach one answer to everything, and what the built-in model knows."""
    rows = [{"prompt": f"What is {n} + 1 in total?", "completion": "n n n n n n"} for n in range(64)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    texts = [json.loads(line)["text"] for line in tiny.set_path("pretrain", "eval").read_text().splitlines()]
    known = [{"kind": ("odd", "even")[number % 2 == 0], "text": text} for number, text in enumerate(texts[:12], 1)]
    (tmp_path / "kept.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in known), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("number", [1, 2])
def test_a_run_that_forgets_fails_its_gate_once_its_model_is_saved(number: int, folder: Path, ftcli_run: Train):
    if number == 2 and not PROOF:
        pytest.skip("make proof runs it")
    words = (*QUICK, "run.retention=kept.jsonl", GATE, f"hardware.num_processes={number}")
    done = ftcli_run("train", *words, cwd=folder, expect=EXIT_GATE)
    assert "the gate was not passed: retention fell by" in done.stderr
    assert number == 2 or "Traceback" not in done.stderr  # torch's launcher prints one of its own
    assert "by kind" in done.stdout  # as a run that passes, it says what came of it
    assert "at work" not in done.stdout
    run = folder / "run"
    result = rundir.read_result(run)
    assert result is not None
    assert (run / rundir.MODEL / "adapter_model.safetensors").is_file()
    kept = result["retention"]
    assert kept["difference"]["value"] < -0.5
    assert kept["difference"]["value"] == pytest.approx(
        sum(each["after"] - each["before"] for each in kept["kinds"].values()) / 2
    )
    assert len(kept["failed"]) == 2
    end = run_end.read(run)
    assert end is not None
    assert (end.code, "the gate was not passed" in end.message) == (EXIT_GATE, True)
    assert run_state(run).whole
    if number == 2:
        return
    said = ftcli_run("report", "run", cwd=folder).stdout
    assert "by kind" in said
    assert "odd -" in said
    assert "gate, the run" not in said
    # Finished, so it is told again and not trained again.
    again = ftcli_run("train", "--resume", "run", cwd=folder)
    assert "is finished" in again.stderr


def test_a_run_that_keeps_what_it_knew_passes(folder: Path, ftcli_run: Train):
    words = (*QUICK, "train.learning_rate=1e-6", "run.retention=kept.jsonl", GATE)
    said = ftcli_run("train", *words, cwd=folder).stdout
    assert "passed: retention at least -0.5" in said
    result = rundir.read_result(folder / "run")
    assert result is not None
    assert result["retention"]["difference"]["value"] == pytest.approx(0, abs=0.05)


@pytest.mark.skipif(not possible(), reason="the signal is planted in a fork")
@pytest.mark.parametrize("phase", ["saving checkpoint-2", "measuring what was kept"])
def test_a_run_that_is_resumed_is_judged_by_what_it_began_with(
    phase: str, folder: Path, ftcli_run: Train, ftcli_start: Start
):
    words = (*QUICK, "run.retention=kept.jsonl", GATE, "train.save_strategy=steps", "train.save_steps=2")
    ftcli_run("train", *words, "run.dir=whole", cwd=folder, expect=EXIT_GATE)
    term = {"FTCLI_TEST_SIGNAL": f"{phase}={int(signal.SIGTERM)}"}
    with ftcli_start("train", *words, cwd=folder, **term) as command:
        assert command.wait(TIMEOUT_SECONDS) == EXIT_INTERRUPTED
    began = (folder / "run/retention.json").read_bytes()
    assert rundir.read_result(folder / "run") is None
    done = ftcli_run("train", "--resume", "run", cwd=folder, expect=EXIT_GATE)
    assert (folder / "run/retention.json").read_bytes() == began == (folder / "whole/retention.json").read_bytes()
    assert "the gate was not passed: retention fell by" in done.stderr
    whole, resumed = (rundir.read_result(folder / name) for name in ("whole", "run"))
    assert whole is not None
    assert resumed is not None
    assert resumed["retention"] == whole["retention"]
    cards = [(folder / name / rundir.MODEL / CARD).read_text() for name in ("whole", "run")]
    assert "**not passed**" in cards[1]
    assert cards[1].partition("## What it kept")[2] == cards[0].partition("## What it kept")[2] != ""
