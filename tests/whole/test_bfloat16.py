"""Under `train.bf16` a CPU computes what a GPU does: bfloat16 products, and float32 of what trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftcli.runs import rundir
from tests.whole.conftest import Train, steps

COMMON = (
    "hardware=cpu", "hardware.num_threads=1", "train.max_steps=3", "train.logging_steps=1", "train.warmup_steps=0",
    "train.save_steps=2", "train.save_total_limit=3", "data.max_rows=32", "data.max_eval_rows=8", "run.score_rows=0",
)  # fmt: skip


def losses(run: Path) -> list[float]:
    """The loss of every step."""
    return [step["loss"] for step in steps(run)]


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "reward"])
def test_it_learns_what_float32_learns_to_rounding(method: str, here: Path, ftcli_run: Train) -> None:
    common = ("train", f"method={method}", "peft=lora", *COMMON)
    ftcli_run(*common, "run.dir=whole", cwd=here)
    ftcli_run(*common, "train.bf16=true", "run.dir=half", cwd=here)
    whole, half = losses(here / "whole"), losses(here / "half")
    assert half != whole
    assert half == pytest.approx(whole, abs=0.03)
    assert half[-1] < half[0]
    kept = load_file(here / "half/model/adapter_model.safetensors")
    assert {each.dtype for each in kept.values()} == {torch.float32}


def test_a_resumed_run_ends_with_the_same_weights(here: Path, ftcli_run: Train) -> None:
    ftcli_run("train", *COMMON, "train.bf16=true", "run.dir=run", cwd=here)
    weights = here / "run/model/model.safetensors"
    once = weights.read_bytes()
    (here / "run" / rundir.RESULT).unlink()
    shutil.rmtree(here / "run/model")
    for checkpoint in (here / "run" / rundir.CHECKPOINTS).iterdir():
        if checkpoint.name != "checkpoint-2":
            shutil.rmtree(checkpoint)
    ftcli_run("train", "--resume", "run", cwd=here)
    assert [step["step"] for step in steps(here / "run")] == [1, 2, 3]
    assert weights.read_bytes() == once
