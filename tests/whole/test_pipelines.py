"""Pipelines as whole commands: interrupted in every stage, gone on with, and better after each than before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ftcli.pipelines import final_measures
from ftcli.runs import rundir
from tests.whole.conftest import Start, Train, end

# The built-in default with fewer steps; as it stands it runs under `make proof`.
SHORT = (
    "run.score_rows=64", "stages.sft.train.num_train_epochs=2", "stages.reward.train.max_steps=40",
    "stages.ppo.train.max_steps=64",
)  # fmt: skip
SHORT_FEEDBACK = (
    "stages.assistant.train.max_steps=60", "stages.sft.train.max_steps=30", "stages.sample.data.max_rows=64",
    "stages.judge.make.least_margin=0.0", "stages.dpo.train.max_steps=3", "run.score_rows=0", "train.eval_strategy=no",
)  # fmt: skip
COMMAND = (
    "train", "method=rlhf", "run.dir=whole", "hardware=cpu", "hardware.num_threads=1", "train.save_strategy=steps",
    "train.save_steps=10", "train.eval_strategy=no",
)  # fmt: skip


def interrupted(start: Start, words: tuple[str, ...], run: Path, number: signal.Signals) -> int:
    """Start a command, send the signal once the run has a checkpoint, and give the exit code."""
    with start(*words, cwd=run.parent.parent) as parent:
        while parent.poll() is None and not (run / rundir.CHECKPOINTS / "checkpoint-10").is_dir():
            time.sleep(0.01)
        if number == signal.SIGKILL:
            end(parent)
        else:
            parent.send_signal(number)
        return parent.wait()


def test_rlhf_goes_on_from_every_stage_and_its_reward_rises(
    tmp_path: Path, ftcli_run: Train, ftcli_start: Start
) -> None:
    short = () if os.environ.get("FTCLI_PROOF") else SHORT
    whole, resume = tmp_path / "whole", ("train", "--resume", "whole")
    assert interrupted(ftcli_start, (*COMMAND, *short), whole / "sft", signal.SIGKILL) != 0
    assert interrupted(ftcli_start, resume, whole / "reward", signal.SIGTERM) == 75
    finished = (whole / "sft" / rundir.RESULT).stat().st_mtime_ns
    assert interrupted(ftcli_start, resume, whole / "ppo", signal.SIGKILL) != 0
    assert not (whole / rundir.RESULT).exists()
    said = ftcli_run(*resume, cwd=tmp_path)
    assert (whole / "sft" / rundir.RESULT).stat().st_mtime_ns == finished
    result = json.loads((whole / rundir.RESULT).read_text(encoding="utf-8"))
    measured = result["measure"]["values"]
    assert list(measured) == ["found", "sft", "ppo"]
    assert measured["found"] < measured["sft"] < measured["ppo"]
    assert all(f"after {stage}  {measured[stage]:.3f}" in said.stdout for stage in ("sft", "ppo"))
    assert f"before     {measured['found']:.3f}" in said.stdout
    assert "stage sft: finished" in said.stderr

    other = ftcli_run(
        "train", "--from", "whole", "run.dir=other", "stages.ppo.train.max_steps=2", "stages.ppo.run.score_rows=8",
        cwd=tmp_path,
    )  # fmt: skip
    assert "stage reward: reusing " in other.stderr
    assert sorted(path.name for path in (tmp_path / "other").iterdir() if path.is_dir()) == ["ppo"]
    measured = json.loads((tmp_path / "other" / rundir.RESULT).read_text(encoding="utf-8"))["measure"]["values"]
    assert list(measured) == ["sft", "ppo"]


def made(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The rows that a stage made."""
    return [json.loads(line) for line in (folder / stage / "data.jsonl").read_text(encoding="utf-8").splitlines()]


def test_ai_feedback_makes_answers_politer_and_goes_on_from_rows_edited_by_hand(
    tmp_path: Path, ftcli_run: Train, ftcli_start: Start
) -> None:
    """Stopped before the pairs are trained on, to look at them; only the whole of it makes a good judge."""
    proof = bool(os.environ.get("FTCLI_PROOF"))
    short = () if proof else SHORT_FEEDBACK
    command = ("train", "method=rlaif", "run.dir=whole", "hardware=cpu", "hardware.num_threads=1", *short)
    whole = tmp_path / "whole"
    with ftcli_start(*command, cwd=tmp_path) as parent:
        while parent.poll() is None and not (whole / "dpo" / rundir.SPEC).is_file():
            time.sleep(0.01)
        end(parent)
    shutil.rmtree(whole / "dpo")
    pairs = made(whole, "judge")
    assert len(pairs) > 10
    kept = "".join(json.dumps(row) + "\n" for row in pairs[1:])
    (whole / "judge" / "data.jsonl").write_text(kept, encoding="utf-8")
    said = ftcli_run("train", "--resume", "whole", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert f"using its rows as edited by hand, {len(pairs) - 1} instead of {len(pairs)}" in said.stderr
    assert "stage sample: finished" in said.stderr
    state = rundir.read_pipeline(whole)["stages"]["judge"]
    assert state["edited"]["rows"] == len(pairs) - 1
    result = json.loads((whole / rundir.RESULT).read_text(encoding="utf-8"))
    judged = result["stages"]["judge"]
    assert judged["agreement"]["pairs"] == 240
    measures = result["measures"]
    assert list(measures) == ["found", "assistant", "sft", "dpo"]
    if proof:
        assert judged["agreement"]["share"] >= 0.8
        assert measures["dpo"]["polite"] > measures["sft"]["polite"]
        assert measures["dpo"]["right"] > 0.8 * measures["sft"]["right"]
    ledger = json.loads((whole / "dpo" / rundir.LEDGER).read_text(encoding="utf-8"))
    assert ledger["train"]["rows_read"] == len(pairs) - 1
    measuring_goes_on_and_can_be_left_out(whole, measures, ftcli_run)


def measuring_goes_on_and_can_be_left_out(whole: Path, measures: dict[str, Any], ftcli_run: Train) -> None:
    """As a pipeline goes on that was stopped after its first figure: that is not measured again, the others are."""
    first = {"found": {"polite": 0.125, "right": 0.125}}
    rundir.write_json(whole / final_measures.KEPT, {"scores": {}, "rules": first})
    (whole / rundir.RESULT).unlink()
    ftcli_run("train", "--resume", "whole", cwd=whole.parent, OMP_NUM_THREADS="1")
    result = json.loads((whole / rundir.RESULT).read_text(encoding="utf-8"))
    assert result["measures"] == {**measures, **first}
    ftcli_run("train", "--resume", "whole", "method.measure=false", cwd=whole.parent)
    assert json.loads((whole / rundir.RESULT).read_text(encoding="utf-8"))["measures"] is None
    assert rundir.read_pipeline(whole)["options"]["measure"] is False


BRIEF = ("stages.assistant.train.max_steps=40", "run.score_rows=0", "train.eval_strategy=no", "hardware=cpu",
         "hardware.num_threads=1")  # fmt: skip
FEW = ("stages.sample.data.max_rows=64", "stages.judge.make.least_margin=0.0")
WAYS = {
    "method.algorithm=direct": ("method=rlaif", "stages.sft.train.max_steps=20", "stages.ppo.train.max_steps=8"),
    "method.algorithm=ppo": (
        "method=rlaif", *FEW, "stages.sft.train.max_steps=20", "stages.reward.train.max_steps=3",
        "stages.ppo.train.max_steps=4",
    ),
    "method.rounds=2": (
        "method=online_dpo", *FEW, "stages.sft.train.max_steps=20", "stages.dpo.train.max_steps=2",
    ),
}  # fmt: skip
WAYS["method.reference=start"] = (*WAYS["method.rounds=2"], "method.rounds=2")
_SAMPLE = "method.algorithm=direct"


@pytest.mark.parametrize("way", WAYS)
def test_a_policy_learns_from_a_judge_in_each_way(way: str, tmp_path: Path, ftcli_run: Train) -> None:
    if way != _SAMPLE and not os.environ.get("FTCLI_PROOF"):
        pytest.skip("make proof goes through every way")
    ftcli_run("train", *WAYS[way], way, *BRIEF, "run.dir=whole", cwd=tmp_path, OMP_NUM_THREADS="1")
    state = rundir.read_pipeline(tmp_path / "whole")
    result = json.loads((tmp_path / "whole" / rundir.RESULT).read_text(encoding="utf-8"))
    assert list(result["stages"]) == list(state["stages"])
    assert all(0.0 <= each["polite"] <= 1.0 for each in result["measures"].values())
    if way == _SAMPLE:
        lines = (tmp_path / "whole" / "ppo" / rundir.METRICS).read_text(encoding="utf-8").splitlines()
        rewards = [json.loads(line)["reward"] for line in lines if '"reward"' in line]
        assert rewards
        assert all(0.0 <= each <= 1.0 for each in rewards)
