"""PPO as whole processes: killed in the middle of a run, and as two processes on one recorded rollout."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs import rundir
from tests.whole.conftest import Ranks, Train, end, environment, steps

# A rollout is learned from in four steps, and every third is saved: most saves are in the middle of one.
COMMAND = (
    "train", "method=ppo", "peft=lora", "peft.lora_dropout=0.1", "train.learning_rate=1e-3", "train.max_steps=24",
    "train.save_steps=3", "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2",
    "method.num_mini_batches=2", "method.num_ppo_epochs=2", "method.max_new_tokens=12",
    "method.rewards={ended: 1, length: {weight: 1, most: 4}}", "method.kl_target=1.0", "data.max_rows=60",
    "train.eval_strategy=no", "run.score_rows=0", "hardware=cpu", "hardware.num_threads=1", "train.logging_steps=1",
)  # fmt: skip


def adapter(run: Path) -> bytes:
    """The trained adapter, byte for byte."""
    return (run / rundir.MODEL / "adapter_model.safetensors").read_bytes()


def test_a_ppo_run_that_was_killed_resumes_bit_identically(tmp_path, ftcli_run: Train):
    ftcli_run(*COMMAND, "run.dir=whole", cwd=tmp_path)
    run = tmp_path / "run"
    words = [sys.executable, "-m", "ftcli", *COMMAND, "run.dir=run"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, cwd=tmp_path, env=environment(), start_new_session=True, **quiet) as parent:
        checkpoints = run / rundir.CHECKPOINTS
        while parent.poll() is None and not (checkpoints / "checkpoint-9").is_dir():
            time.sleep(0.005)
        end(parent)
    assert not (run / rundir.RESULT).exists()
    ftcli_run("train", "--resume", "run", cwd=tmp_path)
    assert adapter(run) == adapter(tmp_path / "whole")
    assert [(line["step"], line["loss"]) for line in steps(run)][-6:] == [
        (line["step"], line["loss"]) for line in steps(tmp_path / "whole")
    ][-6:]
    told = [json.loads(line) for line in (run / "completions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert told == [json.loads(line) for line in (tmp_path / "whole" / "completions.jsonl").read_text().splitlines()]


def test_two_processes_learn_from_recorded_answers_as_one_does(here, ranks_of: Ranks):
    prompts = [f"Say {i}." for i in range(32)]
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in prompts]
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answers = {text: [20 + (7 * i) % 60 + k for k in range(1 + i % 5)] for i, text in enumerate(prompts)}
    (here / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    common = (
        "method=ppo", "peft=lora", "data.path=rows.jsonl", "train.learning_rate=1e-3", "train.max_steps=8",
        "train.logging_steps=1", "train.save_strategy=no", "hardware=cpu", "hardware.num_threads=1",
        "method.rewards={ended: 1, length: {weight: 1, most: 2}}", "method.num_ppo_epochs=2",
        "method.whiten_rewards=true", "method.normalise_rewards=true", "train.gradient_accumulation_steps=2",
    )  # fmt: skip
    for name, size, processes in (("one", 8, 1), ("two", 4, 2)):
        own = (f"train.per_device_train_batch_size={size}", f"hardware.num_processes={processes}", f"run.dir={name}")
        run = here / name
        run.mkdir()
        (run / rundir.SPEC).write_text(spec_of(Request(overrides=(*common, *own))).to_json(), encoding="utf-8")
        ranks_of("tests.recorded", str(run), "answers.json", cwd=here, number=processes)
    one, two = steps(here / "one"), steps(here / "two")
    assert len(one) == len(two) == 8
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-5)
        for name in ("reward", "kl"):
            if name in ours:
                assert theirs[name] == pytest.approx(ours[name], rel=1e-5, abs=1e-5)  # a sum over whole answers


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_whether_a_run_can_learn_is_seen_over_all_processes(method, here, ranks_of: Ranks):
    """Groups of eight answers lie in two processes, in each of which all answers have one reward."""
    rows = [{"prompt": f"Say {i}."} for i in range(16)]
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    longest = {"ppo": "method.max_new_tokens=4", "grpo": "method.max_completion_length=4"}[method]
    words = [
        f"method={method}", "peft=lora", "data.path=rows.jsonl", longest, "train.max_steps=8", "train.save_strategy=no",
        "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=1", "hardware=cpu",
        "hardware.num_processes=2", "hardware.num_threads=1", "train.eval_strategy=no", "run.score_rows=0",
        "train.logging_steps=1",
    ]  # fmt: skip
    words += ["method.num_generations=8"] if method == "grpo" else ["method.num_ppo_epochs=1"]
    rewards = {
        "one": {"rewards": {"regex": {"pattern": ""}}},
        "each": {"rewards": None, "reward_functions": {"tests.worker.rl:first_process": 1.0}},
    }
    for name, own in rewards.items():
        spec = spec_of(Request(overrides=(*words, "method.rewards.ended=1", f"run.dir={name}")))
        (here / name).mkdir()
        text = replace(spec, method={**spec.method, **own}).to_json()
        (here / name / rundir.SPEC).write_text(text, encoding="utf-8")
        ranks_of("ftcli.worker", "train", str(here / name), cwd=here, number=2)
    told = {name: json.loads((here / name / rundir.RESULT).read_text(encoding="utf-8")) for name in ("one", "each")}
    seen = {name: [each["name"] for each in result["warnings"]] for name, result in told.items()}
    assert "all_right" in seen["one"]
    assert {"all_right", "all_wrong", "no_variance"}.isdisjoint(seen["each"])
    assert [each["figures"]["answers"] for each in told["one"]["warnings"]] == [64] * len(seen["one"])
