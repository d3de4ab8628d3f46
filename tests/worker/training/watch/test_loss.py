"""Losses that leap or stay at 0 are said once, with when it began and ended, also across a resume."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftcli.core.errors import NotFinite
from ftcli.worker.training.run import train
from ftcli.worker.training.watch.loss import LEAST, ZEROS, LossGuard, LossWatch

STEADY = [2.0 + 0.02 * (-1) ** i for i in range(LEAST)]


def watched(losses: list[float], folder: Path, *, grad_norm: float = 1.0, resumed_at: int = 0) -> LossWatch:
    """What a watch has seen of a run with these losses, one a step; from a file up to the step of a resume."""
    file = folder / "metrics.jsonl"
    lines = [{"step": i + 1, "loss": loss, "grad_norm": grad_norm} for i, loss in enumerate(losses[:resumed_at])]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = LossWatch(file)
    state = SimpleNamespace(global_step=resumed_at, is_world_process_zero=True)
    found.on_train_begin(None, state, None)
    for loss in losses[resumed_at:]:
        state.global_step += 1
        found.on_log(None, state, None, {"loss": loss, "grad_norm": grad_norm})
    return found


@pytest.mark.parametrize("resumed_at", [0, LEAST, LEAST + 1])
def test_a_spike_is_said_once_with_when_it_ended(resumed_at, tmp_path, capsys):
    [spike] = watched([*STEADY, 9.0, 8.0, 2.0, 2.01], tmp_path, resumed_at=resumed_at).warnings
    assert (spike["name"], spike["first_step"], spike["last_step"]) == ("loss_spike", LEAST + 1, LEAST + 3)
    assert spike["message"] == "the loss leapt to 9, more than 7 deviations above 2"
    assert capsys.readouterr().err.count("warning: step") == (resumed_at <= LEAST)


@pytest.mark.parametrize("losses", [STEADY, [*STEADY, 2.1], [*STEADY[:4], 9.0], [5 * 0.9**i for i in range(40)]])
def test_a_loss_that_falls_wavers_or_has_just_begun_is_no_spike(losses, tmp_path):
    assert watched(losses, tmp_path).warnings == []


def test_a_loss_that_stays_at_0_without_a_gradient_learns_nothing(tmp_path):
    [zero] = watched([1.0, *[0.0] * ZEROS, 0.0], tmp_path, grad_norm=0.0).warnings
    assert (zero["name"], zero["first_step"], zero["last_step"]) == ("zero_loss", ZEROS + 1, None)
    assert watched([0.0] * 9, tmp_path, grad_norm=0.5).warnings == []  # as of a loss that is made of advantages


@pytest.mark.parametrize("name", ["loss", "eval_loss", "rewards/margins", "eval_rewards/chosen", "kl", "logps/chosen"])
def test_a_metric_that_must_be_finite_ends_the_run(name):
    state = SimpleNamespace(global_step=7)
    with pytest.raises(NotFinite, match=f"step 7  {name} became nan"):
        LossGuard().on_log(SimpleNamespace(fp16=False), state, None, {name: float("nan")})


def test_a_spread_over_one_answer_and_an_overflow_of_fp16_do_not(tmp_path):
    guard, state = LossGuard(), SimpleNamespace(global_step=7)
    guard.on_log(SimpleNamespace(fp16=False), state, None, {"rewards/rule/std": float("nan"), "entropy": float("inf")})
    guard.on_log(SimpleNamespace(fp16=True), state, None, {"grad_norm": float("inf")})


def test_a_run_keeps_its_warnings_in_its_result(sft_file, make_spec, new_run, look):
    def plant(trainer: Any) -> None:
        step, compute = (lambda: trainer.state.global_step), trainer.compute_loss

        def leaping(*args: Any, **kwargs: Any) -> Any:
            loss = compute(*args, **kwargs)
            return loss * 50 if step() == LEAST + 1 else loss

        trainer.compute_loss = leaping

    look(start=plant)
    result = train(new_run(make_spec(sft_file, train={"max_steps": LEAST + 4, "learning_rate": 1e-6}), "run"))
    [spike] = result["warnings"]
    assert (spike["name"], spike["first_step"], spike["last_step"]) == ("loss_spike", LEAST + 2, LEAST + 3)
