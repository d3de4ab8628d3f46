"""The main job, whole: `ftcli train recipe=demo` learns what it has never seen, and its run answers."""

from __future__ import annotations

import json

from ftcli.runs import rundir
from tests.whole.conftest import Train


def test_the_demo_learns_held_out_instructions(tmp_path, ftcli_run: Train):
    done = ftcli_run("train", "recipe=demo", "hardware.num_threads=1", "run.dir=demo", cwd=tmp_path, real=True)
    result = rundir.read_result(tmp_path / "demo")
    assert result["score"]["name"] == "exact_match"
    assert result["score"]["rows"] >= 200
    assert result["score"]["before"] <= 0.2
    # A nearest neighbour gets at most 0.25 (tests/tiny/test_world.py): at least 30 points lie between.
    assert result["score"]["after"] >= 0.8
    assert result["eval_loss"]["after"] < result["eval_loss"]["before"] / 4
    for line in ("ftcli chat demo --base", "ftcli eval demo", "ftcli train method=dpo model.name_or_path=demo"):
        assert line in done.stdout
    answers = ftcli_run("generate", "demo", "--base", "--json", "Write the word cat backwards.", cwd=tmp_path).stdout
    answer = json.loads(answers)
    assert answer["answer"] == "t a c"
    assert answer["before"] != answer["answer"]
