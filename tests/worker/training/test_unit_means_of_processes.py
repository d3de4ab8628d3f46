"""Held-out and training losses are the same in one process and in two, and with them what follows from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_utils import get_last_checkpoint

from ftcli.methods import all_methods
from ftcli.runs import rundir
from ftcli.runs.metrics import read_metrics
from tests.ranks import Ranks
from tests.turns import assistant
from tests.worker.conftest import MakeSpec, weights, write_rows
from tests.worker.training.test_unit_means import HELD_OUT, MAKES, uneven

ROWS = 9
"""In batches of 4, or of 2 in each of two processes, the last one is a row that one process has alone."""
APART = {"step", "epoch", "tokens_per_second", "elapsed_seconds", "schema", "peak_resident_gib"}
RISING = {"sft": 0.3, "dpo": 0.04}
"""Rates at which the loss of contrary rows falls, and rises again."""
Run = Callable[..., Path]


@pytest.fixture
def trained(make_spec: MakeSpec, new_run: Any, tmp_path: Path, models: dict[str, Path], ranks_of: Ranks) -> Run:
    """A run of so many processes, at four rows a step."""

    def run(name: str, number: int, batch: int, **more: Any) -> Path:
        rows = [MAKES.get(name, uneven)(index) for index in range(ROWS)]
        path = write_rows(tmp_path / f"{name}.jsonl", rows)
        others = [against(row) for row in rows[3:6]] if more.pop("contrary", False) else rows[6:]
        held_out = write_rows(tmp_path / f"{name}-held.jsonl", [*rows[1:5], *others])
        method: dict[str, Any] = {"name": name, **({"packing": False} if name in ("instruct", "pretrain") else {})}
        if name == "distillation":
            method |= {"max_completion_length": 6, "teacher_model": str(models["qwen3"])}
        method |= more.pop("method", {})
        steps = {
            "max_steps": 6, "per_device_train_batch_size": 4 // number, "per_device_eval_batch_size": batch,
            "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 3e-3, "warmup_steps": 0,
            "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2,
        }  # fmt: skip
        asked = {"train": {**steps, **more.pop("train", {})}, **more}
        spec = make_spec(path, method=method, eval_path=str(held_out), launch={"num_processes": number}, **asked)
        at: Path = new_run(spec, f"{name}-{number}x{batch}")
        ranks_of("ftcli.worker", "train", str(at), cwd=tmp_path, number=number)
        return at

    return run


def against(row: dict[str, Any]) -> dict[str, Any]:
    """A row that says the contrary: the better it is learned what the others say, the worse is its loss."""
    if "messages" in row:
        return {"messages": [row["messages"][0], assistant("leaf " * 3)]}
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def lines_of(run: Path, kind: str) -> list[dict[str, float]]:
    """What was logged of steps ("loss") or of evaluations ("eval_loss")."""
    return [line for line in read_metrics(run / rundir.METRICS) if kind in line]


def compare(ours: Path, theirs: Path, kind: str, tolerance: float) -> None:
    one, other = lines_of(ours, kind), lines_of(theirs, kind)
    assert len(one) == len(other) > 0
    for mine, wanted in zip(one, other, strict=True):
        for name in wanted.keys() - APART:
            if not name.endswith(("_second", "_runtime")):
                assert mine[name] == pytest.approx(wanted[name], rel=tolerance, abs=tolerance), (name, mine["step"])


@pytest.mark.parametrize("name", HELD_OUT)
def test_two_processes_report_what_one_does(name, trained):
    # Adam would make rounding of a gradient near 0 a whole step; and answers for training are drawn by each process.
    steps = {"optim": "sgd", "learning_rate": 1e-9 if name == "distillation" else 0.05}
    one, two = trained(name, 1, 8, train=steps), trained(name, 2, 2, train=steps)
    compare(two, one, "eval_loss", 2e-5)
    if name != "distillation":
        compare(two, one, "loss", 2e-5)
        ours, theirs = weights(two), weights(one)
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", RISING)
def test_best_checkpoint_and_early_stop_are_the_same_in_every_batch_and_number_of_processes(name, trained):
    steps = {"optim": "sgd", "learning_rate": RISING[name], "max_steps": 12, "load_best_model_at_end": True}
    steps |= {"metric_for_best_model": "loss", "greater_is_better": False, "lr_scheduler_type": "constant"}
    runs = [
        trained(name, number, batch, train=steps, contrary=True, run={"early_stopping_patience": 2})
        for number in (1, 2)
        for batch in (1, 2, 8)
    ]
    states = []
    for run in runs:
        state = json.loads(
            (Path(str(get_last_checkpoint(run / rundir.CHECKPOINTS))) / "trainer_state.json").read_text()
        )
        states.append((state["global_step"], state["best_global_step"], state["best_metric"]))
    stopped, best, metric = states[0]
    assert best < stopped < 12
    for run, state in zip(runs, states, strict=True):
        assert state[:2] == (stopped, best)
        assert state[2] == pytest.approx(metric, rel=1e-4)
        compare(run, runs[0], "eval_loss", 1e-3)


def test_the_held_out_loss_of_sorted_samples_is_that_of_one_process(trained):
    # In training each process sorts its own answers, so the steps of several differ.
    how: dict[str, Any] = {"method": {"loss_type": "aot_unpaired"}, "train": {"learning_rate": 1e-9, "max_steps": 2}}
    one, two = trained("dpo", 1, 8, **how), trained("dpo", 2, 2, **how)
    compare(two, one, "eval_loss", 2e-5)


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_a_stream_has_no_end_at_which_processes_would_repeat_rows(name, trained):
    """Nine rows at four a step: each pass ends within a step, and the next one fills it up."""
    steps = {"optim": "sgd", "learning_rate": 0.05, "eval_strategy": "no", "save_strategy": "no"}
    kinds: dict[str, Any] = {"streaming": True, "shuffle_buffer_rows": 4, "train": steps}
    one, two = trained(name, 1, 8, **kinds), trained(name, 2, 2, **kinds)
    compare(two, one, "loss", 2e-5)
    ours, theirs = weights(two), weights(one)
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], atol=2e-5, rtol=1e-4)


def test_what_is_compared_is_what_is_declared():
    assert {name for name, method in all_methods().items() if method.rewarded} == {"grpo", "rloo", "ppo"}
