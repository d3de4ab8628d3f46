"""The newest and the best checkpoint are always kept, also where a run is killed while it removes others."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import trainer

from ftcli.runs import rundir
from ftcli.runs.checkpoint_kind import CheckpointKind, needed_files
from ftcli.runs.checkpoints import sealed, step_of, verify
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA, same_weights

BEST = 2
ADAPTER = needed_files(CheckpointKind(adapter=True))


@pytest.fixture
def spec(sft_file, make_spec):
    """A run of 5 steps, each saved and evaluated, whose second checkpoint is its best and the one that it ends with."""
    more = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 5}
    more |= {"load_best_model_at_end": True, "save_total_limit": 1, "lr_scheduler_type": "constant"}
    # The held-out loss falls with every step; taken as a score, its highest value after the first two is the best.
    more |= {"metric_for_best_model": "eval_loss", "greater_is_better": True}
    return make_spec(sft_file, peft=LORA, train=more, eval_share=0.25)


@pytest.fixture(autouse=True)
def _second_is_best(monkeypatch):
    """Measure the second step's loss as the highest, whatever it is."""
    determine = trainer.Trainer._determine_best_metric

    def with_second_best(self, metrics, trial):
        value = 100.0 if self.state.global_step == BEST else metrics["eval_loss"]
        return determine(self, {**metrics, "eval_loss": value}, trial)

    monkeypatch.setattr(trainer.Trainer, "_determine_best_metric", with_second_best)


def steps_kept(run_dir: Path) -> list[int | None]:
    """The steps of the checkpoints, each of which must be whole."""
    found = sealed(run_dir / rundir.CHECKPOINTS)
    assert all(verify(path, needs=ADAPTER) == [] for path in found)
    return [step_of(path) for path in found]


@pytest.mark.parametrize(("limit", "kept"), [(1, [2, 5]), (2, [2, 5]), (3, [2, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_a_run_ends_with_its_best_keeps_its_newest_and_goes_on_from_there(limit, kept, spec, new_run):
    spec = replace(spec, train={**spec.train, "save_total_limit": limit})
    run_dir = new_run(spec, "run")
    train(run_dir)
    assert steps_kept(run_dir) == kept
    ended = new_run(replace(spec, train={**spec.train, "max_steps": BEST}), "ended")
    train(ended)
    assert same_weights(run_dir, ended)
    longer = replace(spec, train={**spec.train, "max_steps": 6})
    (run_dir / rundir.SPEC).write_text(longer.to_json(), encoding="utf-8")
    result = train(run_dir, sealed(run_dir / rundir.CHECKPOINTS)[-1])
    assert result["length_changes"][0]["done"] == 5
    assert steps_kept(run_dir)[-1] == 6
    assert BEST in steps_kept(run_dir)
    assert same_weights(run_dir, ended)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_while_it_removes_a_checkpoint_leaves_whole_ones_and_goes_on(spec, new_run):
    whole, killed = new_run(spec, "whole"), new_run(spec, "killed")
    train(whole)
    root = killed / rundir.CHECKPOINTS
    child = os.fork()
    if not child:
        unlink = os.unlink

        def die_within_a_removal(path, *args, **kwargs):
            unlink(path, *args, **kwargs)
            if root.is_dir() and any(root.glob(".trash-checkpoint-3")):
                os.kill(os.getpid(), signal.SIGKILL)

        os.unlink = die_within_a_removal
        train(killed)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert steps_kept(killed) == [2, 4]
    left = root / ".trash-checkpoint-3"
    assert any(left.iterdir())
    train(killed, root / "checkpoint-4")
    assert steps_kept(killed) == [2, 5]
    assert not [path for path in root.iterdir() if path.name.startswith(".")]
    assert same_weights(killed, whole)
