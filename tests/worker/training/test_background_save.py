"""A checkpoint that is written while training goes on is the same checkpoint, and nobody leaves before it is whole."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, InterruptedRun
from ftcli.runs import rundir
from ftcli.runs.checkpoints import sealed
from ftcli.worker.process import background_save
from ftcli.worker.process.background_save import BackgroundSave
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA, same_weights

SAVES = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
BACKGROUND = {"run": {"background_save": True}}
LARGE = (".safetensors", ".pt", ".bin")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Holds each seal until it is let go, and says what had been written when training went on."""
    state: dict[str, Any] = {"go": threading.Event(), "seen": []}
    write = BackgroundSave.write

    def slow(self: BackgroundSave, seal: Any, *more: Any) -> None:
        def waiting() -> None:
            assert state["go"].wait(120)
            seal()

        write(self, waiting, *more)

    monkeypatch.setattr(BackgroundSave, "write", slow)
    return state


@pytest.mark.parametrize("peft", [{"name": "none"}, LORA], ids=["full", "lora"])
def test_it_resumes_to_the_weights_of_a_run_that_waited(peft, sft_file, make_spec, new_run):
    waited = new_run(make_spec(sft_file, peft=peft, train=SAVES), "waited")
    went_on = new_run(make_spec(sft_file, peft=peft, train=SAVES, **BACKGROUND), "went_on")
    for run in (waited, went_on):
        train(run)
        assert [each.name for each in sealed(run / rundir.CHECKPOINTS)] == [f"checkpoint-{n}" for n in (2, 4, 6)]
    for step in (2, 4):
        train(went_on, went_on / rundir.CHECKPOINTS / f"checkpoint-{step}")
        assert same_weights(waited, went_on)


def test_training_goes_on_while_it_is_written_and_every_large_file_is(sft_file, make_spec, new_run, held, look):
    run = new_run(make_spec(sft_file, peft=LORA, train={**SAVES, "max_steps": 3}, **BACKGROUND), "run")
    root = run / rundir.CHECKPOINTS

    def plant(trainer: Any) -> None:
        step = trainer.training_step

        def watched(*args: Any, **kwargs: Any) -> Any:
            if trainer.state.global_step == 2:  # the third step: the checkpoint of the second is not sealed
                held["seen"].append((sealed(root), [*root.rglob("*.json")] != []))
                held["go"].set()
            return step(*args, **kwargs)

        trainer.training_step = watched

    look(start=plant)
    train(run)
    assert held["seen"] == [([], True)]
    assert sealed(root) == [root / "checkpoint-2", root / "checkpoint-3"]


@pytest.mark.parametrize("peft", [{"name": "none"}, LORA], ids=["full", "lora"])
def test_no_large_file_is_written_by_the_training_itself(peft, sft_file, make_spec, new_run, monkeypatch):
    early: list[list[str]] = []
    write = BackgroundSave.write

    def looked(self: BackgroundSave, *how: Any) -> None:
        folder = next((run / rundir.CHECKPOINTS).glob(".staging*"))
        early.append([path.name for path in folder.rglob("*") if path.suffix in LARGE])
        write(self, *how)

    monkeypatch.setattr(BackgroundSave, "write", looked)
    run = new_run(make_spec(sft_file, peft=peft, train=SAVES, **BACKGROUND), "run")
    train(run)
    assert early == [[], [], []]


def test_what_keeps_it_from_being_written_ends_the_run_and_leaves_no_staging(sft_file, make_spec, new_run, monkeypatch):
    from ftcli.worker.training import checkpoint

    seal, calls = checkpoint.seal, []

    def full(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        seal(*args)

    monkeypatch.setattr(checkpoint, "seal", full)
    run = new_run(make_spec(sft_file, peft=LORA, train=SAVES, **BACKGROUND), "run")
    with pytest.raises(OSError, match="No space left"):
        train(run)
    assert [path.name for path in (run / rundir.CHECKPOINTS).iterdir()] == ["checkpoint-2"]
    assert not (run / rundir.RESULT).exists()


def test_a_stop_waits_for_it(sft_file, make_spec, new_run, held, look):
    run = new_run(make_spec(sft_file, peft=LORA, train=SAVES, **BACKGROUND), "run")

    def plant(trainer: Any) -> None:
        step = trainer.training_step

        def stopped(*args: Any, **kwargs: Any) -> Any:
            if trainer.state.global_step == 2:
                held["go"].set()
                signal.raise_signal(signal.SIGTERM)
            return step(*args, **kwargs)

        trainer.training_step = stopped

    look(start=plant)
    with pytest.raises(InterruptedRun):
        train(run)
    assert [each.name for each in sealed(run / rundir.CHECKPOINTS)] == ["checkpoint-2", "checkpoint-3"]


def test_the_best_checkpoint_and_the_limit_count_it(sft_file, make_spec, new_run):
    best = {**SAVES, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "save_total_limit": 1}
    runs = [
        new_run(make_spec(sft_file, peft=LORA, train={**best, "learning_rate": 0.5}, eval_share=0.25, run=own), name)
        for name, own in (("waited", {}), ("went_on", {"background_save": True}))
    ]
    results = [train(run) for run in runs]
    kept = [[each.name for each in sealed(run / rundir.CHECKPOINTS)] for run in runs]
    assert kept[0] == kept[1]
    assert results[0]["eval_loss"] == results[1]["eval_loss"]
    assert same_weights(*runs)


def test_by_itself_it_is_for_what_is_large_and_fits(monkeypatch):
    large = background_save.LEAST_BYTES
    assert BackgroundSave(None).worth_it(large, "cuda") == (
        background_save.psutil.virtual_memory().available >= 2 * large
    )
    assert not BackgroundSave(None).worth_it(large - 1, "cuda")
    assert not BackgroundSave(None).worth_it(large, "cpu")
    assert not BackgroundSave(None).worth_it(1 << 60, "cuda")
    assert BackgroundSave(True).worth_it(1, "cpu")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("train.save_strategy=no",), "this run saves none"),
        (("hardware=multi_gpu",), "this run has 2, which write theirs together"),
    ],
)
def test_where_it_would_have_no_effect_it_is_refused(words, why):
    with pytest.raises(ConfigError, match=why):
        spec_of(Request(overrides=("hardware.device=cpu", "run.background_save=true", *words)))


def test_a_kill_meanwhile_leaves_staging_alone(tmp_path, sft_file, make_spec, new_run):
    run = new_run(make_spec(sft_file, peft=LORA, train=SAVES, **BACKGROUND), "run")
    program = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from ftcli.worker.process.background_save import BackgroundSave\n"
        "from ftcli.worker.training.run import train\n"
        "write = BackgroundSave.write\n"
        "def stuck(self, seal, *more):\n"
        "    write(self, lambda: (print('\\nwriting', flush=True), threading.Event().wait()), *more)\n"
        "BackgroundSave.write = stuck\n"
        "train(Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", program, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as killed:
        assert killed.stdout is not None
        assert "writing\n" in iter(killed.stdout.readline, "")
        killed.kill()
    root = run / rundir.CHECKPOINTS
    assert sealed(root) == []
    assert all(path.name.startswith(".staging") for path in Path(root).iterdir())
    train(run)
    assert len(sealed(root)) == 3
