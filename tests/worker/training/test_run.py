"""Whole runs of the worker, in process, on random two-layer models."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma2ForCausalLM, PreTrainedModel, TrainerCallback

from ftcli.core.errors import ConfigError, InterruptedRun, NotFinite
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.reports import kept_rows
from ftcli.runs import rundir
from ftcli.runs.checkpoints import newest_valid
from ftcli.runs.metrics import read_metrics
from ftcli.worker.training import run as train_module
from ftcli.worker.training.measure import BEFORE
from ftcli.worker.training.run import train
from tests.conftest import REPOSITORY
from tests.worker.conftest import LORA, same_weights, weights, write_rows

FULL = {"name": "none"}


@pytest.mark.parametrize("method", ["sft", "dpo"])
@pytest.mark.parametrize("peft", [FULL, LORA], ids=["full", "lora"])
def test_a_run_learns_and_leaves_everything_behind(method, peft, sft_file, dpo_file, make_spec, new_run):
    spec = make_spec(
        sft_file if method == "sft" else dpo_file,
        method={"name": method},
        peft=peft,
        eval_share=0.25,
        run={"score_rows": 4},
        train={"learning_rate": 5e-3, "max_steps": 8},
    )
    run_dir = new_run(spec, "run")
    result = train(run_dir)
    assert json.loads((run_dir / rundir.RESULT).read_text(encoding="utf-8")) == result
    assert result["eval_loss"]["after"] < result["eval_loss"]["before"]
    assert result["loss_last"] < result["loss_first"]
    assert result["score"]["rows"] == 4
    assert (result["parameters"]["trainable"] < result["parameters"]["total"]) == (peft is LORA)
    for name in (rundir.LEDGER, rundir.ENVIRONMENT, rundir.METRICS, "before.json", "model/tokenizer.json"):
        assert (run_dir / name).is_file()
    assert_kept_what_a_report_shows(run_dir, pairs=method == "dpo")
    lines = read_metrics(run_dir / rundir.METRICS)
    assert [line["step"] for line in lines] == list(range(1, 9))
    over = [line["loss_over"] for line in lines]
    whole = sum(line["loss"] * number for line, number in zip(lines, over, strict=True))
    assert result["train_loss"] == pytest.approx(whole / sum(over))


def assert_kept_what_a_report_shows(run_dir: Path, *, pairs: bool):
    answered = kept_rows.answers(run_dir)
    assert len(answered) == 4
    assert all(each.before is not None and each.after is not None for each in answered)
    assert all((each.right is None) == pairs for each in answered)
    rows = kept_rows.shown_rows(run_dir)
    assert len(rows) == 4
    for row in rows:
        assert [each.name for each in row.sequences] == (["chosen", "rejected"] if pairs else [""])
        for each in row.sequences:
            assert "".join(piece.text for piece in each.pieces if piece.trained)
            assert not each.pieces[0].trained


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2"])
def test_other_architectures_train_as_well(architecture, sft_file, make_spec, new_run, models):
    spec = make_spec(sft_file, model=models[architecture], peft=LORA, train={"max_steps": 4})
    result = train(new_run(spec, architecture))
    assert result["loss_last"] < result["loss_first"]


@pytest.mark.parametrize("first_peft", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("peft", [FULL, LORA], ids=["full", "lora"])
def test_dpo_starts_at_ln_2_on_what_another_run_left(first_peft, peft, sft_file, dpo_file, make_spec, new_run):
    # The policy equals its reference: −log σ(0) = ln 2. A reference of the bare base would show.
    first = new_run(make_spec(sft_file, peft=first_peft), "first")
    train(first)
    spec = make_spec(dpo_file, method={"name": "dpo"}, peft=peft, model=first, train={"max_steps": 2})
    second = new_run(spec, "second")
    assert train(second)["loss_first"] == pytest.approx(math.log(2), abs=1e-5)


def test_an_adapter_stacks_on_an_adapter(sft_file, make_spec, new_run):
    from ftcli.settings.groups import ModelSettings
    from ftcli.worker.models.load import load_model

    first = new_run(make_spec(sft_file, peft=LORA), "first")
    train(first)
    second = new_run(make_spec(sft_file, peft=LORA, model=first), "second")
    began = train(second)["loss_first"]
    assert began < json.loads((first / rundir.RESULT).read_text(encoding="utf-8"))["loss_first"]
    declared = json.loads((second / "model/adapter_config.json").read_text(encoding="utf-8"))
    assert Path(declared["base_model_name_or_path"]) == first / "model"
    stacked = load_model(ModelSettings(name_or_path=str(second)), seed=0, device="cpu")
    below = load_model(ModelSettings(name_or_path=str(first)), seed=0, device="cpu")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not stacked.state_dict()[name].equal(below.state_dict()[name])


def test_scoring_leaves_training_bit_identical(sft_file, make_spec, new_run):
    plain = make_spec(sft_file, peft=LORA, eval_share=0.25)
    scored = replace(plain, run=replace(plain.run, score_rows=6))
    runs = [new_run(plain, "plain"), new_run(scored, "scored")]
    results = [train(run) for run in runs]
    assert same_weights(*runs)
    assert results[0]["loss_last"] == results[1]["loss_last"]


def test_the_loss_before_training_is_measured_alone_and_leaves_training_bit_identical(sft_file, make_spec, new_run):
    plain = make_spec(sft_file, peft=LORA, eval_share=0.25, run={"loss_before": False})
    scored = replace(plain, run=replace(plain.run, loss_before=True, score_rows=4))
    measured = replace(plain, run=replace(plain.run, loss_before=True))
    runs = [new_run(spec, name) for spec, name in ((plain, "plain"), (scored, "scored"), (measured, "measured"))]
    without, with_score, alone = (train(run) for run in runs)
    assert without["eval_loss"]["before"] is None
    assert not (runs[0] / BEFORE).exists()
    assert alone["eval_loss"] == pytest.approx(with_score["eval_loss"])
    assert alone["eval_loss"]["before"] > alone["eval_loss"]["after"]
    assert alone["score"] is None
    assert same_weights(runs[0], runs[2])
    assert [line["step"] for line in read_metrics(runs[2] / rundir.METRICS)] == [
        line["step"] for line in read_metrics(runs[0] / rundir.METRICS)
    ]


def test_a_stopped_run_keeps_the_loss_before_training(sft_file, make_spec, new_run, monkeypatch):
    spec = make_spec(sft_file, peft=LORA, eval_share=0.25, run={"loss_before": True})
    expected = train(new_run(spec, "whole"))["eval_loss"]
    broken = new_run(spec, "broken")
    interrupt_at(3, monkeypatch)
    with pytest.raises(InterruptedRun):
        train(broken)
    resumed = train(broken, resume=newest_valid(broken / rundir.CHECKPOINTS, files_to_resume(spec))[0])
    assert resumed["eval_loss"] == pytest.approx(expected)


def test_a_run_whose_rows_make_more_examples_than_when_it_began_is_not_resumed(make_spec, new_run, tmp_path):
    turns = [{"role": role, "content": f"{role} {turn}"} for turn in range(2) for role in ("user", "assistant")]
    file = write_rows(tmp_path / "talks.jsonl", [{"messages": turns}] * 8)
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}
    # Version 0.1 trained only the last turn where a template rewrites the earlier ones, and counted so.
    began = make_spec(file, train=saving, trained_turns="last")
    run = new_run(began, "run")
    train(run)
    ledger = (run / rundir.LEDGER).read_text(encoding="utf-8")
    today = replace(began, data=replace(began.data, trained_turns="unroll"))
    (run / rundir.SPEC).write_text(today.to_json(), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"began with 8 sequences and \d+ trained tokens") as caught:
        train(run, run / rundir.CHECKPOINTS / "checkpoint-2")
    [problem] = caught.value.problems
    assert "its rows now make 16 and" in problem.what
    assert "an example of its own" in problem.what
    assert f"ftcli train --from {run}" in problem.fix
    assert (run / rundir.LEDGER).read_text(encoding="utf-8") == ledger
    (run / rundir.SPEC).write_text(began.to_json(), encoding="utf-8")
    train(run, run / rundir.CHECKPOINTS / "checkpoint-2")


def test_the_loss_before_training_is_that_of_the_first_evaluation_if_one_is_asked_for(
    sft_file, make_spec, new_run, monkeypatch
):
    plain = make_spec(sft_file, peft=LORA, eval_share=0.25, run={"score_rows": 4})
    expected = train(new_run(plain, "measured"))["eval_loss"]
    evaluates = {**plain.train, "eval_on_start": True}
    for name, score_rows in (("scored", 4), ("not scored", 0)):
        spec = replace(plain, train=evaluates, run=replace(plain.run, score_rows=score_rows))
        assert train(new_run(spec, name))["eval_loss"] == pytest.approx(expected), name
    broken = new_run(spec, "broken")
    interrupt_at(3, monkeypatch)
    with pytest.raises(InterruptedRun):
        train(broken)
    resumed = train(broken, resume=newest_valid(broken / rundir.CHECKPOINTS, files_to_resume(spec))[0])
    assert resumed["eval_loss"] == pytest.approx(expected)


class _KillAt(TrainerCallback):
    """Sends this process a signal during a step, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = train_module.build_trainer

    def interrupted(run):
        trainer = original(run)
        trainer.add_callback(_KillAt(step))
        return trainer

    monkeypatch.setattr(train_module, "build_trainer", interrupted)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_an_interrupted_run_resumes_to_the_same_weights(method, sft_file, dpo_file, make_spec, new_run, monkeypatch):
    spec = make_spec(
        sft_file if method == "sft" else dpo_file,
        method={"name": method},
        peft=LORA,
        eval_share=0.2,
        run={"score_rows": 4},
        train={"max_steps": 7, "eval_strategy": "epoch", "logging_steps": 2},
    )
    whole, broken = new_run(spec, "whole"), new_run(spec, "broken")
    expected = train(whole)
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        with pytest.raises(InterruptedRun, match="ftcli train --resume") as caught:
            train(broken)
    assert caught.value.exit_code == 75
    assert not (broken / rundir.RESULT).exists()
    checkpoint, damaged = newest_valid(broken / rundir.CHECKPOINTS, files_to_resume(spec))
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-4"
    assert not damaged
    with open(broken / rundir.METRICS, "a", encoding="utf-8") as file:
        file.write('{"schema": 1, "step": 6, "loss": 99.0, "elapsed_seconds": 1.0}\n{"cut sho')
    result = train(broken, resume=checkpoint)
    assert same_weights(whole, broken)
    lines = read_metrics(broken / rundir.METRICS)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 4, 6, 7]
    assert result["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-6)
    assert result["eval_loss"] == expected["eval_loss"]
    assert result["tokens_trained"] == expected["tokens_trained"]


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint(sft_file, make_spec, new_run):
    train_settings = {
        "learning_rate": 1e30,
        "max_grad_norm": 0,
        "optim": "sgd",
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 50,
    }
    run_dir = new_run(make_spec(sft_file, train=train_settings), "diverging")
    with pytest.raises(NotFinite, match=r"became (nan|inf)"):
        train(run_dir)
    assert not (run_dir / rundir.RESULT).exists()
    assert not (run_dir / "model").exists()


def test_best_checkpoint_and_early_stopping(sft_file, make_spec, new_run):
    # A rate this high only makes the held-out loss worse after the start.
    settings = {
        "learning_rate": 0.5,
        "max_steps": 40,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
        "lr_scheduler_type": "constant",
    }
    spec = make_spec(sft_file, train=settings, eval_share=0.25, run={"early_stopping_patience": 2})
    run_dir = new_run(spec, "early")
    result = train(run_dir)
    assert result["steps"] < 40
    best = min(line["eval_loss"] for line in read_metrics(run_dir / rundir.METRICS) if "eval_loss" in line)
    assert result["eval_loss"]["after"] == pytest.approx(best, rel=1e-6)


def test_packing_trains_every_document_token(make_spec, new_run, tmp_path):
    from tests.worker.conftest import word, write_rows

    path = write_rows(tmp_path / "text.jsonl", [{"text": " ".join(word(i + j) for j in range(12))} for i in range(30)])
    method = {"name": "pretrain", "packing": True}
    spec = make_spec(path, method=method, max_length_tokens=64, train={"max_steps": -1, "num_train_epochs": 1})
    result = train(new_run(spec, "packed"))
    ledger = result["ledger"]["train"]
    assert ledger["rows_kept"] == 30
    assert result["tokens_trained"] == ledger["tokens"]
    assert result["steps"] == math.ceil(math.ceil(ledger["tokens"] / 64) / 4)


def test_random_weights_come_from_the_seed(sft_file, make_spec, new_run):
    runs = []
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        spec = make_spec(sft_file, seed=seed, train={"max_steps": 1})
        spec = replace(spec, model=replace(spec.model, init="random"))
        runs.append(new_run(spec, name))
        train(runs[-1])
    assert same_weights(runs[0], runs[1])
    assert not same_weights(runs[0], runs[2])


def test_a_world_that_is_not_the_plan_is_refused(sft_file, make_spec, new_run):
    run_dir = new_run(make_spec(sft_file, launch={"num_processes": 2}), "two")
    with pytest.raises(ConfigError, match=r"planned for 2 process.*started as 1 process"):
        train(run_dir)


def test_a_run_in_use_is_refused_and_free_again_when_its_process_was_killed(sft_file, make_spec, new_run):
    run_dir = new_run(make_spec(sft_file, train={"max_steps": 1}), "busy")
    program = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from ftcli.worker.process.signals import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 0):\n"
        "    child = os.fork()\n"  # as a data loader's process would be, which may outlive the run for a moment
        "    if child:\n"
        "        print(child, flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(run_dir)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as holder:
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(ConfigError, match=r"in use by another process\n.*start a new run"):
                train(run_dir)
            holder.kill()
            holder.wait()
            train(run_dir)
        finally:
            holder.kill()
            os.kill(child, signal.SIGKILL)
    assert (run_dir / rundir.RESULT).is_file()


def test_a_run_that_a_process_holds_through_the_kernel_alone_is_in_use(sft_file, make_spec, new_run):
    import fcntl

    run_dir = new_run(make_spec(sft_file), "busy")
    with open(run_dir / rundir.WORKER_LOCK, "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="in use"):
            train(run_dir)


def test_validation_without_held_out_rows_is_refused(sft_file, make_spec, new_run):
    run_dir = new_run(make_spec(sft_file, train={"eval_strategy": "epoch"}), "none")
    with pytest.raises(ConfigError, match="no held-out rows"):
        train(run_dir)


@pytest.mark.skipif(
    Gemma2ForCausalLM._supports_sdpa, reason="this transformers takes sdpa for Gemma 2; from 5.23 on it refuses"
)
def test_an_attention_that_the_model_has_not_is_named(sft_file, make_spec, new_run, models):
    # Gemma 2 caps its attention scores, which the fused kernel cannot.
    spec = make_spec(sft_file, model=models["gemma2"])
    run_dir = new_run(replace(spec, model=replace(spec.model, attn_implementation="sdpa")), "capped")
    with pytest.raises(ConfigError, match=r"set model\.attn_implementation=eager"):
        train(run_dir)


def test_weights_are_saved_whole_and_differ_from_the_start(sft_file, make_spec, new_run, models):
    from safetensors.torch import load_file

    run_dir = new_run(make_spec(sft_file), "full")
    train(run_dir)
    (start,) = models["llama"].glob("*.safetensors")
    before, after = load_file(start), weights(run_dir)
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_parameters_are_counted_once_and_operations_of_every_batch(
    method, sft_file, dpo_file, make_spec, new_run, look, monkeypatch
):
    tokens, counted, seen = [], [], []
    count = PreTrainedModel.num_parameters

    def noted(model, *args, **kwargs):
        counted.append(model)
        return count(model, *args, **kwargs)

    def note_batches(trainer):
        step = trainer.training_step

        def training_step(model, inputs, *args):
            tokens.append(inputs["input_ids"].numel())
            return step(model, inputs, *args)

        trainer.training_step = training_step
        seen.append(trainer)
        counted.clear()

    monkeypatch.setattr(PreTrainedModel, "num_parameters", noted)
    look(start=note_batches)
    file = sft_file if method == "sft" else dpo_file
    train(new_run(make_spec(file, method={"name": method}, peft=LORA, train={"max_steps": 3}), "run"))
    assert len(counted) == 1
    [trainer] = seen
    assert trainer.state.total_flos == 6 * sum(tokens) * trainer.model.num_parameters(exclude_embeddings=True)
