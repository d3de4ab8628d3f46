"""What a stop at once says of what is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.runs import rundir
from ftcli.runs.unsaved import lost


@pytest.mark.parametrize(
    ("checkpoints", "logged", "said"),
    [
        ((20, 40), (41, 42, 43), "lost: 3 steps since checkpoint-40"),
        ((40,), (40, 41), "lost: 1 step since checkpoint-40"),
        ((40,), (39, 40), "lost: nothing, no step since checkpoint-40"),
        ((), (1, 2, 3), "lost: 3 steps, as there is no checkpoint"),
        ((), (), "lost: nothing, no step was finished"),
        # Logged every tenth step, so that steps may have followed the last line.
        ((20,), (10, 20, 30), "lost: 10 steps or more since checkpoint-20"),
    ],
)
def test_the_steps_since_the_newest_checkpoint_are_counted(checkpoints, logged, said, tmp_path: Path) -> None:
    (tmp_path / rundir.SPEC).write_text("{}", encoding="utf-8")
    for step in checkpoints:
        (tmp_path / rundir.CHECKPOINTS / f"checkpoint-{step}").mkdir(parents=True)
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in logged]
    (tmp_path / rundir.METRICS).write_text("\n".join([*lines, '{"cut sho']), encoding="utf-8")
    assert lost(tmp_path) == said


def test_a_stage_that_makes_data_loses_no_finished_item(tmp_path: Path) -> None:
    assert lost(tmp_path) == "lost: nothing, finished items are kept"
