"""Every schedule of transformers, as a run steps through it: no step at either end has the learning rate 0."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import TrainingArguments
from transformers.optimization import get_scheduler
from transformers.trainer_utils import SchedulerType

from ftcli.core.errors import ConfigError
from ftcli.methods import all_methods
from ftcli.runs import rundir
from ftcli.runs.metrics import read_metrics
from ftcli.settings.limits import WITHOUT_WARMUP
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.training.run import train
from ftcli.worker.training.schedule import some_of, trained_schedule
from ftcli.worker.training.trainer import trainer_class
from tests.worker.conftest import LORA, weights

NEEDED = {
    "cosine_with_min_lr": {"min_lr": 0.0},
    "cosine_warmup_with_min_lr": {"min_lr": 0.0},
    "warmup_stable_decay": {"num_decay_steps": 1},
}
"""What a schedule needs of train.lr_scheduler_kwargs, in the form that reaches 0."""


def rates(kind, num_steps, warmup, kwargs=None, *, warmup_from_zero=False, lr=1.0):
    """The learning rate of each step of a run."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    args = TrainingArguments(
        lr_scheduler_type=kind,
        warmup_steps=warmup,
        lr_scheduler_kwargs=kwargs,
        use_cpu=True,
        report_to="none",
        eval_strategy="steps",
        eval_steps=1,
    )

    def make():
        return get_scheduler(kind, optimizer, args.get_warmup_steps(num_steps), num_steps, kwargs)

    scheduler = trained_schedule(make, args, num_steps, warmup_from_zero=warmup_from_zero)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not kind.startswith(("reduce", "greedy")):  # they step on a metric
            scheduler.step()
    return found


@pytest.mark.parametrize("kind", [each.value for each in SchedulerType])
@pytest.mark.parametrize(
    ("num_steps", "warmup"), [(1, 0), (1, 0.03), (1, 1), (2, 2), (3, 1), (5, 0.03), (5, 4), (5, 9)]
)
def test_no_step_at_either_end_of_any_schedule_is_wasted(kind, num_steps, warmup):
    found = rates(kind, num_steps, warmup, NEEDED.get(kind))
    assert len(found) == num_steps
    assert found[0] > 0
    assert found[-1] > 0


def test_a_warmup_rises_from_its_first_part_and_ends_at_the_whole_rate():
    # 4 steps of warm-up: 1/4, 2/4, 3/4, 4/4; then linear decay over the 4 others, from 4/4: 4/4, 3/4, 2/4, 1/4
    assert rates("linear", 8, 4) == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert rates("constant_with_warmup", 3, 2, lr=0.5) == [0.25, 0.5, 0.5]
    # a share is rounded up: 3 % of 5 steps is one step
    assert rates("linear", 5, 0.03) == [1.0, 1.0, 0.75, 0.5, 0.25]


def test_a_decay_to_zero_arrives_after_the_last_step():
    # cosine over 2 steps, one step ahead in transformers: (1 + cos(π/2)) / 2 = 0.5, then 0; it starts at 1 here
    found = rates("cosine_warmup_with_min_lr", 2, 0, {"min_lr": 0.0})
    assert found == pytest.approx([1.0, 0.5])
    assert rates("cosine_warmup_with_min_lr", 2, 0, {"min_lr": 0.1}) == pytest.approx([0.55, 0.1])  # as transformers


def test_a_wave_that_touches_zero_in_one_step_has_its_lower_neighbours_rate_there():
    # 1.5 waves over 6 steps: (1 + cos(3π · step/6)) / 2 = 1, 1/2, 0, 1/2, 1, 1/2
    assert rates("cosine", 6, 0, {"num_cycles": 1.5}, warmup_from_zero=True) == pytest.approx([1, 0.5, 0, 0.5, 1, 0.5])
    assert rates("cosine", 6, 0, {"num_cycles": 1.5}) == pytest.approx([1, 0.5, 0.5, 0.5, 1, 0.5])


def test_a_schedule_may_end_before_the_run_in_runs_of_then():
    settings = {"num_decay_steps": 2, "num_stable_steps": 1}
    assert rates("warmup_stable_decay", 5, 0, settings, warmup_from_zero=True) == pytest.approx([1, 1, 0.5, 0, 0])


def test_in_a_very_long_run_a_schedule_is_looked_at_in_a_hundred_thousand_steps():
    assert len(some_of(7)) == 7
    assert len(some_of(10**8)) == 10**5


@pytest.mark.parametrize("kind", [each.value for each in SchedulerType if each.value not in WITHOUT_WARMUP])
def test_between_its_ends_a_schedule_is_that_of_transformers(kind):
    kwargs = {"cosine_with_min_lr": {"min_lr": 0.1}, "cosine_warmup_with_min_lr": {"min_lr": 0.1}}.get(
        kind, {"num_decay_steps": 3} if kind == "warmup_stable_decay" else None
    )
    ours, theirs = rates(kind, 10, 4, kwargs), rates(kind, 10, 4, kwargs, warmup_from_zero=True)
    assert ours[4:] == theirs[4:]
    if kind != "cosine_warmup_with_min_lr":  # its warm-up starts above 0 already, and is left as it is
        assert ours[:4] == [*theirs[1:4], 1.0]
        assert theirs[0] == 0


def test_schedules_without_a_warmup_are_those_that_ignore_it():
    same = [kind.value for kind in SchedulerType if rates(kind.value, 4, 0, NEEDED.get(kind.value)) ==
            rates(kind.value, 4, 3, NEEDED.get(kind.value))]  # fmt: skip
    assert sorted(same) == sorted(WITHOUT_WARMUP)


@pytest.mark.parametrize(
    ("kind", "kwargs", "words"),
    [
        ("warmup_stable_decay", {"num_decay_steps": 0, "num_stable_steps": 0}, "every one of the 5 steps"),
        ("warmup_stable_decay", {"num_decay_steps": 2, "num_stable_steps": 1}, "steps between 4 and 5 of 5 the rate 0"),
        ("cosine_with_min_lr", None, "min_lr"),
        ("warmup_stable_decay", None, "num_decay_steps"),
        ("polynomial", {"lr_end": 2.0}, "smaller than initial lr"),
        ("linear", {"power": 2}, "power"),
    ],
)
def test_a_schedule_that_trains_nothing_or_cannot_be_computed_is_refused(kind, kwargs, words):
    with pytest.raises(ConfigError) as caught:
        rates(kind, 5, 0, kwargs)
    [problem] = caught.value.problems
    assert words in problem.what
    assert "train.lr_scheduler" in problem.where
    assert problem.fix


@pytest.mark.parametrize("name", sorted(all_methods()))
def test_every_trainer_steps_through_our_schedule(name):
    own = trainer_class(all_methods()[name].trainer)
    [first, *_] = [each for each in own.__mro__ if "create_scheduler" in vars(each)]
    assert first.__module__ == "ftcli.worker.training.schedule"


@pytest.mark.parametrize("peft", [{"name": "none"}, LORA], ids=["full", "lora"])
def test_a_run_of_one_step_changes_the_weights(peft, sft_file, make_spec, new_run, models):
    from safetensors.torch import load_file

    one = {"max_steps": 1, "lr_scheduler_type": "cosine", "warmup_steps": 0.03}
    run_dir = new_run(make_spec(sft_file, peft=peft, train=one), "run")
    train(run_dir)
    assert [line["learning_rate"] for line in read_metrics(run_dir / rundir.METRICS)] == [1e-2]
    found = weights(run_dir)
    if peft is LORA:
        assert any(bool(each.any()) for name, each in found.items() if "lora_B" in name)
    else:
        before = load_file(models["llama"] / "model.safetensors")
        assert any(not torch.equal(each, before[name]) for name, each in found.items() if name in before)


def test_a_run_of_then_keeps_the_warmup_that_it_began_with(sft_file, make_spec, new_run):
    spec = make_spec(sft_file, train={"max_steps": 3, "warmup_steps": 2})
    run_dir = new_run(spec, "run")
    raw = json.loads((run_dir / rundir.SPEC).read_text(encoding="utf-8"))
    del raw["warmup_from_zero"]  # as ftcli 0.1 wrote it
    assert RunSpec.from_json(json.dumps(raw)) == replace(spec, warmup_from_zero=True)
    (run_dir / rundir.SPEC).write_text(json.dumps(raw), encoding="utf-8")
    train(run_dir)
    assert [line["learning_rate"] for line in read_metrics(run_dir / rundir.METRICS)] == [0, 5e-3, 1e-2]


def test_a_run_of_then_that_would_train_nothing_is_refused(sft_file, make_spec, new_run):
    spec = replace(make_spec(sft_file, train={"max_steps": 1, "warmup_steps": 1}), warmup_from_zero=True)
    with pytest.raises(ConfigError, match="every one of the 1 steps"):
        train(new_run(spec, "run"))


# --- no step, no row, no parameter ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [{"max_steps": None, "num_train_epochs": 1}, {"max_steps": 3}])
def test_rows_that_fill_no_batch_are_refused_before_the_weights_are_loaded(length, sft_file, make_spec, new_run):
    how = {"per_device_train_batch_size": 1000, "dataloader_drop_last": True, **length}
    run_dir = new_run(make_spec(sft_file, train=how), "run")
    with pytest.raises(ConfigError) as caught:
        train(run_dir)
    [problem] = caught.value.problems
    assert problem.where == "train.dataloader_drop_last"
    assert "no step is left" in problem.what
    assert "per_device_train_batch_size=" in problem.fix
    assert not (run_dir / rundir.LEDGER).exists()


def test_every_held_out_row_is_measured_where_training_drops_the_last_batch(sft_file, make_spec, new_run):
    # in batches of 64 all held-out rows would be dropped; the loss is that of batches of 4, but for a mean of means
    losses = []
    for size in (64, 4):
        how = {"max_steps": 1, "dataloader_drop_last": True, "per_device_eval_batch_size": size}
        spec = make_spec(sft_file, eval_share=0.25, run={"score_rows": 4}, train={"learning_rate": 1e-9, **how})
        losses.append(train(new_run(spec, str(size)))["eval_loss"]["after"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_model_of_which_nothing_trains_is_refused(sft_file, make_spec, new_run):
    spec = make_spec(sft_file, peft={"name": "freeze", "num_layers": 0, "modules": []})
    with pytest.raises(ConfigError, match="no parameter of the model would be trained"):
        train(new_run(spec, "run"))
