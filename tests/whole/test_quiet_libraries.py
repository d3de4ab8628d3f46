"""What libraries print during a command is in the log of its run, and on no terminal; an error that ends it is shown.

A worker is made to print as libraries do, in each of their ways, whenever one of its phases begins.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.core.declarations import names_in
from ftcli.core.exit_codes import EXIT_BUG, EXIT_DONE
from ftcli.launch import local, worker_request
from ftcli.runs import rundir
from ftcli.settings.run_spec import LaunchPlan
from tests.conftest import MakeOnce
from tests.plan.test_measure import model_folder
from tests.warm import Warm
from tests.whole.conftest import TIMEOUT_SECONDS, environment

pytestmark = pytest.mark.slow

NOISE = "NOISE"
SMALL = (
    "model=tiny", "hardware=cpu", "hardware.num_threads=1", "data.max_rows=16", "data.max_eval_rows=2",
    "run.score_rows=2", "train.max_steps=2", "train.per_device_train_batch_size=2", "peft=lora",
)  # fmt: skip
TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: answers.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{completion}}"
generation_kwargs: {max_gen_toks: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
FEW = ("--rows", "2")
PIPELINE = (
    "train", "method=rlaif", "run.dir=pipeline", "hardware=cpu", "hardware.num_threads=1", "data.max_rows=16",
    "run.score_rows=0", "train.eval_strategy=no", "stages.assistant.train.max_steps=2", "stages.sft.train.max_steps=2",
    "stages.sample.data.max_rows=6", "stages.judge.make.least_margin=0.0", "stages.dpo.train.max_steps=2",
)  # fmt: skip
COMMANDS = {
    "train": ("train", *SMALL, "train.eval_strategy=steps", "train.eval_steps=1", "run.dir=again"),
    "eval": ("eval", "run", *FEW),
    "measures": ("eval", "run", "--measure", "perplexity,answers", *FEW),
    "tasks": ("eval", "run", "--tasks", "mine.yaml", *FEW),
    "judged": ("eval", "run", "--against", "builtin:tiny", "--judge", "builtin:tiny", "--max-new-tokens", "4", *FEW),
    "generate": ("generate", "run", "Add 3 and 4 for me.", "--max-new-tokens", "4"),
    "sample": ("sample", "run", "prompts.jsonl", "--to", "sampled.jsonl", "--n", "2", "--max-new-tokens", "4"),
    "score": ("score", "reward", "answers.jsonl"),
    "data": ("data", "check", *SMALL),
    "preview": ("data", "preview", *SMALL),
    "merge": ("merge", "run"),
    "replay": ("verify", "run", "--at", "run/model", "--rows", "1"),
    "chat": ("chat", "run"),
    "synthesise": PIPELINE,
    "architecture": ("plan", "model.name_or_path=mixture", "data.path=answers.jsonl"),
    "tokens": ("recipe", "import", "trl.yaml", "--prove"),
}
"""For each command of a worker (ftcli/worker/commands) one that asks for it."""
ALSO = {"synthesise": "measure"}
"""Commands that the same line asks for."""


@pytest.fixture(scope="module")
def folder(once: MakeOnce, warm: Warm | None) -> Path:
    """A folder with a trained run."""
    if warm is None:
        pytest.skip("the noise is planted in forks")

    def make(at: Path) -> None:
        for words in (("run.dir=run",), ("run.dir=reward", "method=reward")):
            done = warm.run(("train", *SMALL, *words), at, environment(), TIMEOUT_SECONDS)
            assert done.returncode == EXIT_DONE, done.stderr
        (at / "prompts.jsonl").write_text('{"prompt": "Add 3 and 4."}\n', encoding="utf-8")
        (at / "mine.yaml").write_text(TASK, encoding="utf-8")
        plain = {"model_name_or_path": "model", "use_peft": True, "dataset_name": "answers.jsonl", "max_length": 64}
        (at / "trl.yaml").write_text(json.dumps(plain), encoding="utf-8")
        shutil.copytree(tiny.MODEL_DIR, at / "model")
        model_folder(at / "mixture")
        (at / "answers.jsonl").write_text('{"prompt": "Add 3 and 4.", "completion": "7"}\n', encoding="utf-8")

    return once("quiet", make)


def test_each_command_of_a_worker_is_one_of_these() -> None:
    assert {*COMMANDS, *ALSO.values()} == {*names_in("ftcli.worker.commands")}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_what_libraries_print_is_on_no_terminal(name: str, folder: Path, warm: Warm, tmp_path: Path) -> None:
    if name == "tasks":
        pytest.importorskip("lm_eval", reason="pip install 'ftcli[eval]'")
    copies = [Path(shutil.copytree(folder, tmp_path / each)) for each in ("plain", "noisy")]
    noted = tmp_path / "noted"
    plain, noisy = (
        warm.run(COMMANDS[name], copy, environment(XDG_CACHE_HOME=str(copy / "cache"), **extra), TIMEOUT_SECONDS)
        for copy, extra in zip(copies, ({}, {"FTCLI_TEST_NOISE": f"{NOISE}@{noted}"}), strict=True)
    )
    assert (plain.returncode, noisy.returncode) == (EXIT_DONE, EXIT_DONE), plain.stderr + noisy.stderr
    # Those workers were at work, and loud.
    assert {name, ALSO.get(name, name)} <= {*noted.read_text(encoding="utf-8").split()}
    assert NOISE not in noisy.stdout + noisy.stderr
    assert without_measures(noisy.stderr) == without_measures(plain.stderr)
    if name == "train":
        log = (copies[1] / "again" / rundir.LOG).read_text(encoding="utf-8")
        told = [way for way in ("print", "write", "warning", "log", "write past Python") if f"{NOISE} {way}" in log]
        assert len(told) == 5, log
        assert "\x1b" not in log
        assert "step 2/2" in log


def without_measures(text: str) -> list[str]:
    """Lines without the numbers and folders that differ from one time to the next."""
    return [re.sub(r"/\S+|[\d.,]+", "…", line) for line in text.splitlines() if not line.startswith("run ")]


def test_the_last_of_it_is_shown_where_a_worker_ends_without_a_word(tmp_path: Path, monkeypatch, capsys) -> None:
    told: list[str] = []
    monkeypatch.setattr(local, "worker_command", lambda *_, **__: [sys.executable, "-c", BREAKS])
    assert local.run_worker(tmp_path, LaunchPlan(), None, told.append) == EXIT_BUG
    assert told[0].splitlines()[0] == "a library's last words"
    assert told[0].splitlines()[-1].startswith("ImportError: libtorch")
    assert "This is a bug" in told[1]
    assert capsys.readouterr().err == ""


BREAKS = "import sys; sys.stderr.write('a library\\'s last words\\n'); raise ImportError('libtorch is missing')"


def test_a_request_that_ends_without_a_word_shows_the_last_of_it_too(tmp_path: Path, monkeypatch, capsys) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(BREAKS)}\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(worker_request.WorkerFailed):
        [*worker_request.answers("eval", {})]
    assert capsys.readouterr().err.splitlines()[0] == "a library's last words"
