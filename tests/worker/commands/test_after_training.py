"""What is done with a finished run: measuring it again, answers from it, and the worker as a process."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import PreTrainedModel

from ftcli.core.errors import ConfigError
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.__main__ import main
from ftcli.worker.commands import eval as eval_command
from ftcli.worker.commands.eval import evaluate
from ftcli.worker.inference.chat import chat, generate
from ftcli.worker.process import parent_watch
from ftcli.worker.training.run import train
from tests.conftest import REPOSITORY
from tests.worker.conftest import LORA, conversation, write_rows

ROOT = REPOSITORY


@pytest.fixture
def finished(sft_file, make_spec, new_run) -> Path:
    run_dir = new_run(make_spec(sft_file, peft=LORA, eval_share=0.25, run={"score_rows": 6}), "run")
    train(run_dir)
    return run_dir


def test_eval_measures_what_training_measured(finished):
    result = rundir.read_result(finished)
    found = evaluate({"run": str(finished), "data": None, "rows": None})
    assert found["before"]["eval_loss"] == pytest.approx(result["eval_loss"]["before"], rel=1e-5)
    assert found["after"]["eval_loss"] == pytest.approx(result["eval_loss"]["after"], rel=1e-5)
    assert found["after"]["score"]["rows"] == 6


@pytest.mark.parametrize(
    ("score_rows", "requested", "rows", "scored"),
    [(6, None, None, 6), (6, 2, None, 2), (6, 0, None, 0), (0, None, None, 0), (0, 3, None, 3), (0, None, 4, 0)],
)
def test_eval_scores_as_many_rows_as_the_run_or_the_command_says(
    finished, score_rows, requested, rows, scored, tmp_path
):
    run = tmp_path / "copy"
    shutil.copytree(finished, run)
    spec = RunSpec.load(run / rundir.SPEC)
    spec = replace(spec, run=replace(spec.run, score_rows=score_rows))
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    found = evaluate({"run": str(run), "data": None, "rows": rows, "score_rows": requested})
    assert found["after"]["eval_loss"] is not None
    assert found["after"]["score"].get("rows", 0) == scored


def test_eval_takes_other_rows(finished, tmp_path):
    other = write_rows(tmp_path / "other.jsonl", [conversation(i) for i in range(30, 40)])
    found = evaluate({"run": str(finished), "data": str(other), "rows": 4})
    assert (found["rows"], found["data"]) == (4, str(other))


def test_eval_without_held_out_rows_says_how_to_give_some(sft_file, make_spec, new_run):
    run_dir = new_run(make_spec(sft_file), "none")
    with pytest.raises(ConfigError, match=r"data\.eval_path=FILE"):
        evaluate({"run": str(run_dir), "data": None, "rows": None})


def test_eval_of_dpo_starts_from_the_reference(dpo_file, make_spec, new_run):
    spec = make_spec(dpo_file, method={"name": "dpo"}, eval_share=0.25, train={"learning_rate": 3e-3})
    run_dir = new_run(spec, "dpo")
    train(run_dir)
    found = evaluate({"run": str(run_dir), "data": None, "rows": None})
    assert found["before"]["eval_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert found["after"]["eval_loss"] == pytest.approx(rundir.read_result(run_dir)["eval_loss"]["after"], rel=1e-4)


@pytest.mark.parametrize("method", ["dpo", "kto"])
@pytest.mark.parametrize("peft", [LORA, {"name": "prompt", "num_virtual_tokens": 4}, {"name": "none"}])
def test_eval_holds_no_model_that_training_did_not_hold(method, peft, dpo_file, make_spec, new_run, monkeypatch):
    train_as = {"learning_rate": 3e-3, "per_device_train_batch_size": 4}
    spec = make_spec(dpo_file, method={"name": method}, peft=peft, eval_share=0.25, train=train_as)
    run_dir = new_run(spec, "run")
    train(run_dir)
    expected = rundir.read_result(run_dir)["eval_loss"]
    alive: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()
    most = 0

    def counted(kind):
        load = getattr(eval_command, kind)

        def one_more(*args, **kwargs):
            nonlocal most
            model = load(*args, **kwargs)
            alive.add(model.get_base_model() if hasattr(model, "peft_config") else model)
            gc.collect()
            most = max(most, len(alive))
            return model

        monkeypatch.setattr(eval_command, kind, one_more)

    counted("load_model")
    counted("load_trained")
    found = evaluate({"run": str(run_dir), "data": None, "rows": None})
    # An adapter is switched off; of a whole model and its reference one is loaded each, then the start alone.
    assert most == (2 if peft["name"] == "none" else 1)
    assert found["after"]["eval_loss"] == pytest.approx(expected["after"], rel=1e-4)
    start = found["before"]["eval_loss"]
    assert start == pytest.approx(0.693147 if method == "dpo" else 0.5, abs=1e-5)
    assert expected["before"] is None or start == pytest.approx(expected["before"], rel=1e-4)
    assert found["before"]["score"].get("reward_accuracy", 0.5) == 0.5  # policy and reference agree: all are ties


def test_answers_stand_beside_those_of_the_base(finished):
    request = {"model": str(finished), "base": True, "prompts": ["Say red.", "Say blue."], "max_new_tokens": 4}
    lines = list(generate(request))
    assert [line["prompt"] for line in lines] == request["prompts"]
    assert lines == list(generate(request))
    assert set(lines[0]) == {"prompt", "before", "answer"}


def test_sampled_answers_depend_on_the_seed_alone(finished):
    request = {"model": str(finished), "prompts": ["Say red."], "max_new_tokens": 12, "temperature": 1.0}
    answers = [next(generate({**request, "seed": seed}))["answer"] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_a_batch_answers_as_each_prompt_alone(finished):
    request = {"model": str(finished), "max_new_tokens": 6}
    prompts = ["Say red.", "Say tree and river, and then stone.", "Moon?"]
    together = [line["answer"] for line in generate({**request, "prompts": prompts})]
    alone = [next(generate({**request, "prompts": [prompt]}))["answer"] for prompt in prompts]
    assert together == alone


def test_chat_streams_and_labels_both_models(finished):
    said: list[dict[str, Any]] = []
    messages = [{"do": "say", "text": "Say red."}, {"do": "say", "text": "Again."}]
    chat({"model": str(finished), "base": True, "max_new_tokens": 3}, messages, said.append)
    assert [each["label"] for each in said if "label" in each and "answer" not in each] == ["before", "after"] * 2
    for answer in (i for i, each in enumerate(said) if "answer" in each):
        pieces = "".join(each.get("piece", "") for each in said[:answer])
        assert pieces.strip().endswith(said[answer]["answer"])


def test_base_of_a_model_without_a_past_is_refused(models):
    with pytest.raises(ConfigError, match="neither a run nor an adapter"):
        list(generate({"model": str(models["llama"]), "base": True, "prompts": ["x"]}))


def test_mistakes_and_bugs_end_the_worker_with_their_own_codes(make_spec, new_run, tmp_path, capsys):
    path = write_rows(tmp_path / "bad.jsonl", [conversation(0), {"messages": 3}])
    assert main(["train", str(new_run(make_spec(path), "bad"))]) == 3
    told = capsys.readouterr().err
    assert "bad.jsonl:2" in told
    assert "Traceback" not in told
    assert main(["train", str(tmp_path / "nowhere")]) == 2
    assert main(["dance", str(path)]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_worker_ends_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    created = psutil.Process(parent.pid).create_time()
    code = (
        "import time; from ftcli.worker.process.parent_watch import die_with_parent; "
        "die_with_parent(); print(flush=True); time.sleep(3600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), parent_watch.PARENT: f"{parent.pid}:{created!r}"}
    orphan = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    try:
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == b"\n"
        time.sleep(0.3)  # for a look or two at its parent, which lives
        assert orphan.poll() is None
        parent.kill()
        parent.wait()
        assert orphan.wait(timeout=120) == 75
    finally:
        for process in (parent, orphan):
            if process.poll() is None:
                process.kill()
