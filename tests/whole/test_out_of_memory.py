"""A run that ends out of memory restarts smaller where its batch was left to ftcli, and only there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ftcli.runs import rundir
from tests.whole.conftest import Train

# Rewards, and the words with which CUDA says that it has no more memory: once, in the second step.
REWARD = """
from pathlib import Path

import torch

CALLS = []


def worth(completions, **_):
    CALLS.append(len(completions))
    with open("calls", "a") as file:
        print(len(completions), file=file)
    if len(CALLS) == 2 and not Path("failed").exists():
        Path("failed").touch()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return [float(len(answer) % 3) for answer in completions]
"""
HOW = (
    "recipe=r.yaml", "method.num_generations=4", "method.max_completion_length=4",
    "data.path=rows.jsonl", "train.max_steps=3", "train.save_steps=1", "train.learning_rate=1e-3",
    "run.score_rows=0", "run.dir=run", "hardware=cpu", "hardware.num_threads=1", "--trust-reward-code",
)  # fmt: skip


@pytest.fixture
def rewarded(tmp_path: Path) -> Path:
    (tmp_path / "worth.py").write_text(REWARD, encoding="utf-8")
    rows = [{"prompt": f"Say {number}."} for number in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = "ftcli: 1\ndefaults: [{method: grpo}]\nmethod:\n  reward_functions: {worth:worth: 1}\n"
    (tmp_path / "r.yaml").write_text(recipe, encoding="utf-8")
    return tmp_path


def path_with(folder: Path) -> str:
    """PYTHONPATH with a folder of the user's own code."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def test_a_chosen_batch_is_halved_and_goes_on_from_the_last_checkpoint(rewarded: Path, ftcli_run: Train):
    done = ftcli_run(
        "train", *HOW, "train.per_device_train_batch_size=auto", cwd=rewarded, real=True, PYTHONPATH=path_with(rewarded)
    )
    assert "restarting from checkpoint-1 with 4 rows in each of 2 passes" in done.stderr
    spec = json.loads((rewarded / "run" / rundir.SPEC).read_text())
    assert (spec["train"]["per_device_train_batch_size"], spec["train"]["gradient_accumulation_steps"]) == (4, 2)
    [why] = [note["why"] for note in spec["notes"] if note["key"] == "train.per_device_train_batch_size"]
    assert why == "halved: out of memory with 8 rows in a pass, restarted from checkpoint-1"
    # the first step was not trained again: one rollout of 8 before the failing one, two after it
    assert (rewarded / "calls").read_text().split() == ["8"] * 4
    assert json.loads((rewarded / "run" / rundir.RESULT).read_text())["steps"] == 3
    assert load_file(rewarded / "run" / rundir.MODEL / "model.safetensors")


def test_a_batch_that_was_set_is_left_as_it_is(rewarded: Path, ftcli_run: Train):
    done = ftcli_run("train", *HOW, cwd=rewarded, real=True, expect=4, PYTHONPATH=path_with(rewarded))
    assert "restarting" not in done.stderr
    assert (rewarded / "calls").read_text().split() == ["8"] * 2
