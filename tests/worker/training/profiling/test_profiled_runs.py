"""Where the seconds of real runs go: what is planted in a call is found in its part, to the last second."""

from __future__ import annotations

import gzip
import importlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import distributed
from transformers import TrainerCallback

from ftcli.core.errors import InterruptedRun
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.runs import rundir
from ftcli.runs.checkpoints import newest_valid
from ftcli.runs.profiles.profile_file import OPERATIONS, PROFILE, TRACE, name_of, read_profiles
from ftcli.runs.profiles.time_parts import OF_STEPS, PARTS, WAIT
from ftcli.runs.worker_records import read_phases
from ftcli.worker.training import run as training
from ftcli.worker.training.profiling import session
from ftcli.worker.training.profiling.hooks import METHODS, PHASES
from ftcli.worker.training.run import train
from tests.conftest import REPOSITORY
from tests.ranks import Ranks
from tests.worker.conftest import LORA, conversation, pair_of_answers, same_weights, write_rows
from tests.worker.rl import prompts_file, rl_spec, sampling
from tests.worker.training.profiling.test_recorder import Clock
from tests.worker.training.test_run import interrupt_at

PROFILED = {"profile": True}
STEPS = 4
PLANTED = {
    "get_batch_samples": 1, "compute_loss": 2, "backward": 4, "_clip_grad_norm": 8, "optimizer": 16, "log": 32,
    "_save_checkpoint": 64, "evaluate": 128, "_generate_single_turn": 256, "answerer": 256, "_calculate_rewards": 512,
    "_scored": 512, "_per_token": 1024,
}  # fmt: skip
"""Seconds that a call takes by a clock that passes only there."""
SINGLE = {"data": 1, "forward": 2, "backward": 4, "optimiser": 8 + 16}
"""What they make of a step of one batch."""


def label_of(index: int) -> dict[str, Any]:
    """A row of KTO."""
    row = pair_of_answers(index)
    return {"prompt": row["prompt"], "completion": row["chosen" if index % 2 else "rejected"], "label": bool(index % 2)}


ROWS = {
    "sft": conversation,
    "dpo": pair_of_answers,
    "orpo": pair_of_answers,
    "reward": pair_of_answers,
    "kto": label_of,
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the runs of a test, which passes where something is planted and nowhere else."""
    clock = Clock()
    monkeypatch.setattr(session, "Recorder", partial(session.Recorder, clock=clock))
    monkeypatch.setattr(session.deferred_imports, "seconds", 7.0)
    return clock


def plant(trainer: Any, clock: Clock) -> None:
    """Let calls of a trainer take their seconds of PLANTED."""

    def slow(owner: Any, name: str, seconds: float) -> None:
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            clock.now += seconds
            return function(*args, **kwargs)

        setattr(owner, name, call)

    for name in PLANTED.keys() - {"backward", "optimizer"}:
        if hasattr(trainer, name):
            slow(trainer, name, PLANTED[name])
    slow(trainer.accelerator, "backward", PLANTED["backward"])
    make = trainer.create_optimizer

    def made(*args: Any, **kwargs: Any) -> Any:
        first = trainer.optimizer is None
        optimizer = make(*args, **kwargs)
        if first:
            slow(optimizer, "step", PLANTED["optimizer"])
        return optimizer

    trainer.create_optimizer = made


@pytest.mark.parametrize("method", sorted(ROWS))
@pytest.mark.parametrize("peft", [{"name": "none"}, LORA], ids=["full", "lora"])
def test_what_is_planted_is_found(method, peft, clock, look, make_spec, new_run, tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", [ROWS[method](i) for i in range(24)])
    often = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 4}
    spec = make_spec(
        file, method={"name": method}, peft=peft, run=PROFILED, train={"max_steps": STEPS, **often}, eval_share=0.2
    )
    look(start=lambda trainer: plant(trainer, clock))
    began = clock.now
    result = train(new_run(spec, "run"))
    parts = {name: each["seconds"] for name, each in result["profile"]["parts"].items()}
    assert {name: parts[name] for name in SINGLE} == {name: STEPS * each for name, each in SINGLE.items()}
    # A log a step, one of the whole run, and those of the evaluations, which belong to these.
    assert (parts["log"], parts["save"], parts["import"]) == (32 * (STEPS + 1), 64, 7)
    assert parts["evaluate"] >= 2 * (128 + 32)
    passed = {"data", "forward", "backward", "optimiser", "log", "save", "evaluate", "import"}
    assert not any(seconds for name, seconds in parts.items() if name not in passed)
    assert sum(parts.values()) == result["profile"]["seconds"] == clock.now - began + 7
    assert result["profile"]["steps"] == STEPS


@pytest.mark.parametrize("method", ["grpo", "rloo", "ppo"])
def test_answers_rewards_and_passes_without_gradients_are_parts_of_their_own(
    method, clock, look, make_spec, new_run, models, tmp_path
):
    settings = sampling(method, longest=3, rewards={"exact_answer": 1}, kl=0.1)
    own = {"num_ppo_epochs": 1} if method == "ppo" else {}
    spec = rl_spec(make_spec, prompts_file(tmp_path, 1), models["llama"], {**settings, **own}, max_steps=STEPS)
    look(start=lambda trainer: plant(trainer, clock))
    profile = train(new_run(replace(spec, run=replace(spec.run, profile=True)), "run"))["profile"]
    parts = {name: each["seconds"] for name, each in profile["parts"].items()}
    # A rollout a step: answers, rewards, and with PPO the values of each token.
    assert (parts["generation"], parts["rewards"]) == (256 * STEPS, 512 * STEPS)
    assert parts.get("scoring", 0) == (1024 * STEPS if method == "ppo" else 0)
    assert profile["parts"]["scoring"]["times"] >= STEPS  # of the reference
    assert {name: parts[name] for name in SINGLE} == {name: STEPS * each for name, each in SINGLE.items()}


def test_the_pass_of_a_reference_is_no_training_pass(clock, look, dpo_file, make_spec, new_run):
    def reference(trainer: Any) -> None:
        model = trainer.accelerator.unwrap_model(trainer.ref_model)
        forward = model.forward

        def slow(*args: Any, **kwargs: Any) -> Any:
            clock.now += 3
            return forward(*args, **kwargs)

        model.forward = slow

    look(start=reference)
    spec = make_spec(dpo_file, method={"name": "dpo"}, run=PROFILED, train={"max_steps": 2}, eval_share=0.2)
    parts = train(new_run(spec, "run"))["profile"]["parts"]
    assert (parts["scoring"]["seconds"], parts["forward"]["seconds"]) == (6, 0)


def test_the_parts_sum_to_the_whole_and_the_trace_shows_them(sft_file, make_spec, new_run):
    often = {"max_steps": 8, "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}
    spec = make_spec(sft_file, run={**PROFILED, "profile_steps": 2}, train=often, eval_share=0.2)
    run = new_run(spec, "run")
    profile = train(run)["profile"]
    assert sum(each["seconds"] for each in profile["parts"].values()) == pytest.approx(profile["seconds"], abs=1e-4)
    trace = json.loads(gzip.decompress((run / TRACE).read_bytes()))
    spans = [each for each in trace["traceEvents"] if each["ph"] == "X"]
    assert trace["otherData"] == {"spans_left_out": 0}
    [whole] = [each for each in spans if each["cat"] == "training"]
    phases = read_phases(run)
    assert phases is not None
    told = {each.name: each.seconds for each in phases.over}
    assert whole["dur"] / 1e6 == pytest.approx(told["training"], rel=0.01, abs=0.02)
    # What lies in the span of training is all that the steps are made of, and what comes between them.
    inside = [
        each for each in spans if whole["ts"] <= each["ts"] and each["ts"] + each["dur"] <= whole["ts"] + whole["dur"]
    ]
    steps = {kind: [each["args"]["step"] for each in inside if each["cat"] == kind] for kind in PARTS}
    assert steps["data"] == steps["forward"] == steps["backward"] == [*range(1, 9)]
    assert steps["evaluate"] == steps["save"] == [4, 8]
    assert {each["cat"] for each in inside} >= {"data", "forward", "backward", "optimiser", "log", "trace"}
    operations = json.loads(gzip.decompress((run / OPERATIONS).read_bytes()))["traceEvents"]
    names = [each.get("name", "") for each in operations]
    assert (names.count("forward"), names.count("backward")) == (2, 2)
    assert any(name.startswith("aten::") for name in names)
    assert not [each.name for each in run.iterdir() if each.name.startswith(".") and each.name != rundir.WORKER_LOCK]


def test_a_profile_changes_no_weight_and_leaves_nothing_behind(sft_file, make_spec, new_run, look):
    functions = (distributed.barrier, distributed.all_reduce, importlib.import_module)
    seen: list[Any] = []
    look(start=seen.append)
    folders = []
    for own in ({}, PROFILED):
        folders.append(new_run(make_spec(sft_file, peft=LORA, run=own, eval_share=0.2), f"run{len(folders)}"))
        result = train(folders[-1])
        assert ("profile" in result) == bool(own)
    assert same_weights(*folders)
    assert functions == (distributed.barrier, distributed.all_reduce, importlib.import_module)
    assert not (folders[0] / PROFILE).exists()
    assert not (folders[0] / TRACE).exists()
    for trainer in seen:
        assert not {"compute_loss", "log", "evaluate"} & vars(trainer).keys()
        assert not trainer.model._forward_pre_hooks
    assert "backward" not in vars(seen[0].accelerator)


def test_a_stopped_run_keeps_its_profile_and_a_resumed_one_has_its_own(sft_file, make_spec, new_run, monkeypatch):
    spec = make_spec(sft_file, run=PROFILED, train={"max_steps": 7})
    run = new_run(spec, "run")
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        with pytest.raises(InterruptedRun):
            train(run)
    [stopped] = read_profiles(run)
    assert (stopped.from_step, stopped.steps) == (0, 4)
    assert stopped.parts["save"].times == 1
    assert (run / TRACE).is_file()
    checkpoint, _ = newest_valid(run / rundir.CHECKPOINTS, files_to_resume(spec))
    resumed = train(run, resume=checkpoint)["profile"]
    assert (resumed["from_step"], resumed["steps"]) == (4, 3)
    assert resumed["parts"]["backward"]["times"] == 3


def test_a_run_at_work_tells_how_far_it_was_at_its_last_checkpoint(sft_file, make_spec, new_run, look):
    class Reads(TrainerCallback):
        """Reads the profile after each step, as who looks at a run, or at one that was killed there."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen.append([each.steps for each in read_profiles(run)])

    seen: list[list[int]] = []
    often = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2}
    run = new_run(make_spec(sft_file, run=PROFILED, train=often), "run")
    look(start=lambda trainer: trainer.add_callback(Reads()))
    train(run)
    assert seen == [[], [], [2], [2], [4]]


def test_a_run_that_fails_keeps_how_far_it_came(sft_file, make_spec, new_run, monkeypatch):
    monkeypatch.setattr(training, "build_trainer", lambda run: 1 / 0)
    run = new_run(make_spec(sft_file, run=PROFILED), "run")
    with pytest.raises(ZeroDivisionError):
        train(run)
    [profile] = read_profiles(run)
    assert (profile.steps, profile.parts["tokenise"].times) == (0, 1)
    assert profile.parts.keys() >= {"load", "tokenise"}
    assert "forward" not in profile.parts


def test_each_of_two_processes_has_its_own_and_the_result_how_long_they_wait(
    sft_file, make_spec, new_run, ranks_of: Ranks, tmp_path: Path
):
    spec = make_spec(sft_file, run=PROFILED, train={"max_steps": 5}, launch={"num_processes": 2})
    run = new_run(spec, "run")
    ranks_of("ftcli.worker", "train", str(run), cwd=tmp_path, number=2)
    profiles = read_profiles(run)
    assert [(each.rank, each.processes, each.steps) for each in profiles] == [(0, 2, 5), (1, 2, 5)]
    told = json.loads((run / rundir.RESULT).read_text(encoding="utf-8"))["profile"]["processes"]
    assert [(each["rank"], each["wait"]) for each in told] == [(i, profiles[i].parts[WAIT].seconds) for i in range(2)]
    assert all(each.parts[WAIT].times >= 5 for each in profiles)
    assert (run / name_of(TRACE, 1)).is_file()


def test_what_is_counted_by_name_has_that_name():
    assert set(PARTS) > OF_STEPS
    assert {*PHASES.values(), *METHODS.values()} < set(PARTS)
    files = [each for each in (REPOSITORY / "ftcli" / "worker").rglob("*.py") if each.parent.name != "profiling"]
    sources = "".join(each.read_text(encoding="utf-8") for each in files)
    assert not [name for name in PHASES if f'"{name}"' not in sources]
