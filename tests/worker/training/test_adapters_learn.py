"""Every adapter learns: a sample of benchmarks/adapters.py on fewer rows, and what the whole of it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.peft_methods import PEFT_METHODS
from ftcli.tiny.world import INSTRUCTIONS
from ftcli.worker.training.run import train
from tests.conftest import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results" / "adapters.json"
SMALL = (
    "method=instruct", "model=tiny", "train.num_train_epochs=1", "data.max_rows=600", "data.max_eval_rows=64",
    "run.score_rows=8", "train.save_strategy=no", "train.eval_strategy=no", "hardware=cpu", "hardware.num_threads=1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "rate"),
    [("peft=ia3", 3e-2), ("peft=adapter", 5e-3), ("peft=prompt", 3e-1)],
)
def test_an_adapter_learns_held_out_instructions(choice: str, rate: float, tmp_path: Path, new_run) -> None:
    words = (*SMALL, *choice.split(" "), f"train.learning_rate={rate}", f"run.dir={tmp_path / 'run'}")
    loss = train(new_run(spec_of(Request(overrides=words)), "run"))["eval_loss"]
    assert loss["after"] < loss["before"] / 2


def test_the_whole_table_has_every_adapter_beyond_its_margin() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    choices = {row["choice"].split(" ")[0].removeprefix("peft=") for row in found["adapters"]}
    assert choices == {"none", *PEFT_METHODS} - {"other"}
    for row in found["adapters"]:
        assert row["exact_match"]["after"] >= row["exact_match"]["before"] + found["margin"] > 0, row["choice"]
        assert row["eval_loss"]["after"] < row["eval_loss"]["before"] / 2, row["choice"]


def test_kinds_that_were_left_out_are_answered_better_as_well() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert sorted(kind for fold in found["unseen"] for kind in fold["kinds"]) == sorted(INSTRUCTIONS)
    for fold in found["unseen"]:
        assert fold["exact_match"]["after"] > fold["exact_match"]["before"], fold["kinds"]
        assert fold["eval_loss"]["after"] < fold["eval_loss"]["before"], fold["kinds"]
