"""A run that is resumed with another number of steps: each step has the rate that the schedule of that number gives it.

Where the schedule for more steps is the same in those that are done, the run ends with the weights of one that was
planned that long, bit for bit; where it is not, the run says so.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import TrainerCallback
from transformers.trainer_utils import SchedulerType

from ftcli.core.errors import ConfigError
from ftcli.runs import rundir
from ftcli.runs.checkpoints import sealed
from ftcli.runs.metrics import read_metrics
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA, conversation, same_weights, write_rows
from tests.worker.rl import prompt, rl_spec, sampling

SHORT, LONG = 4, 8
NEEDED = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 2},
}
FOLLOW_A_METRIC = ("reduce_lr_on_plateau", "greedy")
WITHOUT_LENGTH = ("constant", "constant_with_warmup", "inverse_sqrt", *FOLLOW_A_METRIC)
"""Schedules whose rate at a step is the same for any number of steps."""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", [conversation(i) for i in range(20)])


def saving(**more):
    return {"save_strategy": "steps", "save_steps": 1, "learning_rate": 3e-3, **more}


def go_on(run_dir: Path, **changes):
    """Resume a run from its newest checkpoint with other `train` settings; its result."""
    spec = RunSpec.load(run_dir / rundir.SPEC)
    (run_dir / rundir.SPEC).write_text(replace(spec, train={**spec.train, **changes}).to_json(), encoding="utf-8")
    return train(run_dir, sealed(run_dir / rundir.CHECKPOINTS)[-1])


def rates(run_dir: Path) -> list[float]:
    """The learning rate of each step."""
    lines = [line for line in read_metrics(run_dir / rundir.METRICS) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["learning_rate"] for line in lines]


@pytest.mark.parametrize("kind", [each.value for each in SchedulerType])
@pytest.mark.parametrize("warmup", [2, 0.3], ids=["steps", "share"])
def test_every_step_of_every_schedule_trains_also_where_the_run_was_extended(kind, warmup, rows, make_spec, new_run):
    more = {"lr_scheduler_type": kind, "lr_scheduler_kwargs": NEEDED.get(kind), "warmup_steps": warmup}
    held_out = {}
    if kind in FOLLOW_A_METRIC:
        more |= {"eval_strategy": "steps", "eval_steps": 1, "warmup_steps": 0}
        held_out = {"eval_share": 0.2}
    short = make_spec(rows, train=saving(**more, max_steps=SHORT), **held_out)
    planned, extended = new_run(make_spec(rows, train=saving(**more, max_steps=LONG), **held_out), "planned"), new_run(
        short, "extended")  # fmt: skip
    train(planned)
    result = train(extended)
    assert "length_changes" not in result
    before = rates(extended)
    result = go_on(extended, max_steps=LONG)
    [change] = result["length_changes"]
    assert (change["done"], change["planned"], change["now"]) == (SHORT, SHORT, LONG)
    own, whole = rates(extended), rates(planned)
    assert len(own) == LONG
    assert all(rate > 0 for rate in own)
    assert own[:SHORT] == before
    assert own[SHORT:] == whole[SHORT:]
    assert change["next_rate"] == pytest.approx(own[SHORT])
    assert change["last_rate"] == pytest.approx(own[SHORT - 1])
    same = own == whole
    assert change["same"] is same
    assert same_weights(extended, planned) is same
    assert ("ends like" if same else "is not the same as") in change["note"]
    share_of_length = warmup == 0.3 and kind in ("constant_with_warmup", "inverse_sqrt")
    assert same is (kind in WITHOUT_LENGTH and not share_of_length)


ADALORA = {"name": "adalora", "init_r": 6, "target_r": 3, "target_modules": "all-linear", "deltaT": 1}
LORAPLUS = {"name": "loraplus", **{k: v for k, v in LORA.items() if k != "name"}, "loraplus_lr_ratio": 16}


@pytest.mark.parametrize("peft", [LORA, LORAPLUS], ids=["lora", "loraplus"])
def test_an_extended_adapter_ends_with_the_weights_of_one_planned_that_long(peft, rows, make_spec, new_run):
    """The steps end within an epoch of 5, with dropout."""
    more = saving(lr_scheduler_type="constant_with_warmup", warmup_steps=2)
    planned, extended = (
        new_run(make_spec(rows, peft=peft, train={**more, "max_steps": steps}), name)
        for steps, name in ((LONG, "planned"), (SHORT, "extended"))
    )
    train(planned)
    train(extended)
    go_on(extended, max_steps=LONG)
    assert same_weights(extended, planned)
    assert rates(extended) == rates(planned)


def test_each_parameter_group_has_its_own_rate_of_the_new_schedule(rows, make_spec, new_run, look):
    run_dir = new_run(make_spec(rows, peft=LORAPLUS, train=saving(max_steps=2)), "run")
    train(run_dir)
    seen: list[list[float]] = []

    def at_first_step(trainer):
        class Look(TrainerCallback):
            def on_pre_optimizer_step(self, *_, **__):
                seen.append([group["lr"] for group in trainer.optimizer.param_groups if group["params"]])

        trainer.add_callback(Look())

    look(start=at_first_step)
    go_on(run_dir, max_steps=4)
    # linear over 4 steps: 1, 3/4, 2/4, 1/4 of the rate; B learns at 16 times that of A
    assert [sorted(set(each)) for each in seen] == [
        pytest.approx([3e-3 / 2, 16 * 3e-3 / 2]),
        pytest.approx([3e-3 / 4, 16 * 3e-3 / 4]),
    ]


@pytest.mark.parametrize("peft", [LORA, LORAPLUS], ids=["lora", "loraplus"])
def test_a_lowest_rate_is_that_of_the_adapter_also_where_its_groups_have_rates_of_their_own(
    peft, rows, make_spec, new_run
):
    lowest = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 2e-3}, "max_steps": 2}
    run_dir = new_run(make_spec(rows, peft=peft, train=saving(**lowest)), "run")
    train(run_dir)
    # halfway from 3e-3 to 2e-3
    assert rates(run_dir) == pytest.approx([3e-3, 2.5e-3])


def letters(completions, **_):
    """A reward that answers of a random model differ in."""
    return [len(answer[-1]["content"]) / 10 for answer in completions]


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_an_extended_run_that_samples_ends_with_the_weights_of_one_planned_that_long(
    name, make_spec, new_run, tmp_path, models
):
    """It was to end in the middle of a rollout that is learned from in four steps; PPO's critic has its own rate."""
    rows = [{"prompt": prompt(f"Say {i}."), "answer": "red"} for i in range(24)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    method = sampling(name, reward_functions={f"{__name__}:letters": 1.0})
    method |= {"num_mini_batches": 2, "kl_target": 1.0, "value_learning_rate": 1e-2} if name == "ppo" else {}
    method |= {} if name == "ppo" else {"steps_per_generation": 2, "num_iterations": 2, "num_generations": 4}
    more = saving(per_device_train_batch_size=4)
    runs = {}
    for kind in ("constant", "linear"):
        for steps, label in ((6, "planned"), (3, "extended")):
            spec = rl_spec(make_spec, file, models["llama"], method, **more, max_steps=steps, lr_scheduler_type=kind)
            runs[label] = new_run(spec, f"{kind}-{label}")
            train(runs[label])
        result = go_on(runs["extended"], max_steps=6)
        assert rates(runs["extended"])[3:] == rates(runs["planned"])[3:]
        assert same_weights(runs["extended"], runs["planned"]) is (kind == "constant")
        assert result["length_changes"][0]["same"] is (kind == "constant")


def test_a_run_extended_twice_tells_both_and_says_so_in_its_checkpoints(rows, make_spec, new_run):
    run_dir = new_run(make_spec(rows, train=saving(max_steps=2)), "run")
    train(run_dir)
    go_on(run_dir, max_steps=4)
    changes = go_on(run_dir, max_steps=6)["length_changes"]
    assert [(each["done"], each["planned"], each["now"], each["same"]) for each in changes] == [
        (2, 2, 4, False),
        (4, 4, 6, False),
    ]
    # linear: of 2 steps 1, 1/2; of 4 the last two of 1, 3/4, 2/4, 1/4; of 6 the last two
    assert rates(run_dir) == pytest.approx([3e-3 * share for share in (1, 1 / 2, 2 / 4, 1 / 4, 2 / 6, 1 / 6)])
    assert (
        "steps 1 to 2 were trained by the linear schedule of 2 steps, steps 3 to 4 by that of 4" in changes[-1]["note"]
    )
    assert go_on(run_dir)["length_changes"] == changes  # nothing new


def test_a_run_whose_first_stretch_had_other_rates_is_not_one_planned_that_long(rows, make_spec, new_run):
    """The decay of the first 3 steps stays, though the steps from 4 to 5 are as in the longest run."""
    stable = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 2}}
    run_dir = new_run(make_spec(rows, train=saving(**stable, warmup_steps=0, max_steps=3)), "run")
    train(run_dir)
    assert not go_on(run_dir, max_steps=7)["length_changes"][-1]["same"]
    for path in sealed(run_dir / rundir.CHECKPOINTS)[5:]:
        shutil.rmtree(path)
    changes = go_on(run_dir, max_steps=9)["length_changes"]
    assert [each["same"] for each in changes] == [False, False]
    assert "steps 1 to 3 were trained by the warmup_stable_decay schedule of 3 steps, the last" in changes[-1]["note"]
    assert rates(run_dir) == pytest.approx([3e-3, 3e-3, 1.5e-3, *[3e-3] * 5, 1.5e-3])


def test_a_schedule_in_its_stable_part_does_not_depend_on_what_follows(rows, make_spec, new_run):
    stable = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 2}}
    whole = new_run(make_spec(rows, train=saving(**stable, warmup_steps=1, max_steps=8)), "whole")
    run_dir = new_run(make_spec(rows, train=saving(**stable, warmup_steps=1, max_steps=6)), "run")
    train(whole)
    train(run_dir)
    for path in sealed(run_dir / rundir.CHECKPOINTS)[4:]:  # before the decay, which begins with step 5
        shutil.rmtree(path)
    [change] = go_on(run_dir, max_steps=8)["length_changes"]
    assert change["same"]
    assert same_weights(run_dir, whole)


def test_a_run_may_end_where_it_is_and_says_where_its_rate_was(rows, make_spec, new_run):
    run_dir = new_run(make_spec(rows, train=saving(max_steps=6)), "run")
    train(run_dir)
    for path in sealed(run_dir / rundir.CHECKPOINTS)[3:]:
        shutil.rmtree(path)
    result = go_on(run_dir, max_steps=3)
    assert result["steps"] == 3
    [change] = result["length_changes"]
    assert change["next_rate"] is None
    assert change["last_rate"] == pytest.approx(3e-3 * 4 / 6)
    assert "steps 1 to 3 were trained by the linear schedule of 6 steps, the last at 0.002" in change["note"]
    with pytest.raises(ConfigError, match="to have 2 steps, and 3 are done"):
        go_on(run_dir, max_steps=2)


def test_epochs_make_a_run_longer_like_steps(rows, make_spec, new_run):
    """20 rows in batches of 4 with two accumulated are 3 steps an epoch."""
    more = saving(max_steps=-1, gradient_accumulation_steps=2, lr_scheduler_type="linear")
    planned, extended, constant = (
        new_run(make_spec(rows, train={**more, "num_train_epochs": epochs, "lr_scheduler_type": kind}), name)
        for epochs, kind, name in ((3, "linear", "planned"), (1.5, "linear", "extended"), (3, "constant", "constant"))
    )
    train(planned)
    train(extended)
    [change] = go_on(extended, num_train_epochs=3)["length_changes"]
    assert (change["done"], change["planned"], change["now"], change["same"]) == (5, 5, 9, False)
    assert rates(extended)[5:] == rates(planned)[5:] == pytest.approx([3e-3 * share / 9 for share in (4, 3, 2, 1)])
    train(constant)
    went_on = new_run(RunSpec.load(constant / rundir.SPEC), "went_on")
    go_to = RunSpec.load(went_on / rundir.SPEC)
    (went_on / rundir.SPEC).write_text(
        replace(go_to, train={**go_to.train, "num_train_epochs": 1.5}).to_json(), encoding="utf-8"
    )
    train(went_on)
    assert go_on(went_on, num_train_epochs=3)["length_changes"][0]["same"]
    assert same_weights(went_on, constant)


def test_a_schedule_that_follows_a_metric_has_counted_what_was_measured_at_the_end_of_the_shorter_run(
    rows, make_spec, new_run
):
    """The shorter run ends within its first epoch of 4 steps, and is evaluated there, before its last save or after."""
    more = saving(lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="epoch", max_steps=3)
    for saves, same in (("epoch", False), ("steps", True)):
        run_dir = new_run(make_spec(rows, train={**more, "save_strategy": saves}, eval_share=0.2), saves)
        train(run_dir)
        [change] = go_on(run_dir, max_steps=8)["length_changes"]
        assert change["same"] is same
        assert ("has counted the evaluation that ended step 3 within an epoch" in change["note"]) is not same
        assert ("is not the same" in change["note"]) is not same


def test_a_run_that_early_stopping_ended_stays_ended_and_says_so(rows, make_spec, new_run):
    more = saving(max_steps=9, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True)
    # the loss falls, so that the first step stays the best, and patience ends two evaluations later
    more |= {"metric_for_best_model": "eval_loss", "greater_is_better": True}
    run_dir = new_run(make_spec(rows, train=more, eval_share=0.25, run={"early_stopping_patience": 2}), "run")
    assert train(run_dir)["steps"] == 3
    result = go_on(run_dir, max_steps=12)
    assert result["steps"] == 3
    [change] = result["length_changes"]
    assert change["next_rate"] is None
    assert "early stopping had ended the run there" in change["note"]


@pytest.mark.parametrize(("steps", "then"), [(6, 12), (6, 40), (12, 6)])
def test_adaloras_ranks_follow_the_new_length_and_the_run_says_so(steps, then, rows, make_spec, new_run):
    """Extended after its pruning was over, to before and after the next begins; and shortened to after its end."""
    run_dir = new_run(make_spec(rows, peft=ADALORA, train=saving(max_steps=steps)), "run")
    train(run_dir)
    done = min(steps, 5)
    for path in sealed(run_dir / rundir.CHECKPOINTS)[done:]:
        shutil.rmtree(path)
    [change] = go_on(run_dir, max_steps=then)["length_changes"]
    assert f"AdaLoRA's ranks were pruned by the schedule of {steps} steps" in change["note"]
    declared = json.loads((run_dir / rundir.MODEL / "adapter_config.json").read_text(encoding="utf-8"))
    pattern = declared["rank_pattern"]
    assert sum(map(sum, pattern.values())) == 3 * len(pattern)
    assert all(rate > 0 for rate in rates(run_dir))


def test_adaloras_ranks_in_a_run_that_is_extended_before_any_is_pruned_are_those_of_the_longer_run(
    rows, make_spec, new_run
):
    peft, more = {**ADALORA, "tinit": 3, "tfinal": 2}, saving(lr_scheduler_type="constant")
    planned = new_run(make_spec(rows, peft=peft, train={**more, "max_steps": 10}), "planned")
    extended = new_run(make_spec(rows, peft=peft, train={**more, "max_steps": 7}), "extended")
    train(planned)
    train(extended)
    for path in sealed(extended / rundir.CHECKPOINTS)[3:]:
        shutil.rmtree(path)
    [change] = go_on(extended, max_steps=10)["length_changes"]
    assert change["same"]
    assert same_weights(extended, planned)
