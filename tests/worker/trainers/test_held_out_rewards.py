"""Held-out rewards are the same whatever the batch and the number of processes, and each evaluation draws alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_utils import get_last_checkpoint

from ftcli.runs import rundir
from ftcli.worker.inference.fixed_draws import FixedDraws
from ftcli.worker.inference.shrinking_batch import STRETCH
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer
from tests.ranks import Ranks
from tests.worker.conftest import LORA, MakeSpec, write_rows
from tests.worker.rl import prompt, sampling

METHODS = ("ppo", "grpo", "rloo")
LONGEST = 3 * STRETCH
NOT_MEASURED = ("_second", "_runtime")
Make = Callable[..., Any]


@pytest.fixture
def trainer_of(make_spec: MakeSpec, new_run: Any, tmp_path: Path) -> Make:
    """A trainer of a random model whose answers end after 16 tokens in the mean, at different places."""

    def make(name: str, batch: int, *, adapter: bool = False, **more: Any) -> Any:
        rows = [{"prompt": prompt(f"Say {'moon ' * (i % 4)}{i % 5}."), "answer": "red"} for i in range(7)]
        file = write_rows(tmp_path / "rows.jsonl", rows)
        rewards = {"length": {"most": 20}, "regex": {"pattern": "[aeiou]", "weight": 0.5}}
        own = sampling(name, LONGEST, rewards=rewards, **more)
        own |= {"generation_batch_size": batch} if name == "ppo" else {"num_generations": 2, "num_generations_eval": 3}
        train = {"per_device_eval_batch_size": batch, "eval_strategy": "steps", "eval_steps": 1}
        spec = make_spec(file, method=own, eval_path=str(file), train=train)
        spec = replace(spec, choices={"method": name}, peft=LORA if adapter else spec.peft)
        run = load(spec, new_run(spec, f"{name}-{batch}-{len(list(tmp_path.iterdir()))}"))
        ends = [*range(0, run.model.config.vocab_size, 16), run.tokenizer.eos_token_id]
        run.model.generation_config.eos_token_id = ends
        trainer = build_trainer(run)
        for how in (trainer.model.generation_config, getattr(trainer, "generation_config", None)):
            if how is not None:
                how.eos_token_id = ends
        trainer.eos_token_ids = ends
        trainer.held_out_together = batch
        return trainer

    return make


def share_of_vowels(completions: Any, **_: Any) -> list[float]:
    """The share of an answer's characters that are vowels."""
    texts = [answer[-1]["content"] for answer in completions]
    return [sum(text.count(each) for each in "aeiou") / max(len(text), 1) for text in texts]


def measured(trainer: Any) -> dict[str, float]:
    """What an evaluation reports, beside the time that it takes."""
    return {name: value for name, value in trainer.evaluate().items() if not name.endswith(NOT_MEASURED)}


@pytest.mark.parametrize("name", METHODS)
def test_they_do_not_depend_on_the_batch_although_ended_answers_leave_it(name, trainer_of):
    found = [measured(trainer_of(name, batch)) for batch in (1, 2, 8)]
    assert STRETCH / 2 < found[0]["eval_completions/mean_length"] < LONGEST
    assert 0 < found[0]["eval_reward"] < 1.5
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", METHODS)
def test_as_many_are_generated_at_once_as_a_rollout_has_and_more_of_a_small_model(
    name, make_spec, new_run, tmp_path, monkeypatch
):
    rows = [{"prompt": prompt(f"Say {i}."), "answer": "red"} for i in range(70)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    own = sampling(name, 2, rewards={"exact_answer": 1})
    own |= {} if name == "ppo" else {"num_generations": 2, "num_generations_eval": 1}
    train = {"per_device_eval_batch_size": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    spec = replace(make_spec(file, method=own, eval_path=str(file), train=train), choices={"method": name})
    trainer = build_trainer(load(spec, new_run(spec, "run")))
    sizes: list[int] = []
    draw = FixedDraws.multinomial

    def noted(draws: FixedDraws, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(draws.generators))
        return draw(draws, *args, **kwargs)

    monkeypatch.setattr(FixedDraws, "multinomial", noted)
    trainer.evaluate()
    assert max(sizes) == 64
    sizes.clear()
    trainer.held_out_together = None  # as of a model whose memory does matter
    trainer.evaluate()
    assert max(sizes) == 4 * 3


@pytest.mark.parametrize("name", METHODS)
def test_each_evaluation_draws_alike_and_leaves_trainings_draws_as_they_are(name, trainer_of):
    trainer = trainer_of(name, 3, adapter=True)
    before = torch.get_rng_state()
    assert measured(trainer) == measured(trainer)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", METHODS)
def test_they_are_means_over_all_answers_each_once(name, trainer_of, monkeypatch):
    trainer, seen = trainer_of(name, 2), []
    taken = type(trainer.rewards).__call__

    def noted(rewards: Any, sampled: Any) -> Any:
        seen.extend(sampled)
        return taken(rewards, sampled)

    monkeypatch.setattr(type(trainer.rewards), "__call__", noted)
    found = measured(trainer)
    lengths = [len(each.answer_ids) for each in seen]
    assert len(seen) == 7 * (1 if name == "ppo" else 3)  # no prompt is taken twice to fill a batch of two
    assert len({(tuple(each.prompt_ids), tuple(each.answer_ids)) for each in seen}) == len(seen)
    rewards = trainer.rewards.total(taken(trainer.rewards, seen))
    assert found["eval_reward"] == pytest.approx(float(rewards.mean()))
    assert found["eval_completions/mean_length"] == pytest.approx(sum(lengths) / len(lengths))
    if name != "ppo":
        assert found["eval_reward_std"] == pytest.approx(float(rewards.std()))
        groups = rewards.view(7, 3)
        assert found["eval_frac_reward_zero_std"] == pytest.approx(float((groups.std(1) < 1e-6).float().mean()))


@pytest.fixture
def trained(make_spec: MakeSpec, new_run: Any, tmp_path: Path, ranks_of: Ranks) -> Make:
    """A run of so many processes, whose answers depend on their place and not on the process."""

    def run(name: str, number: int, batch: int) -> Path:
        rows = [{"prompt": prompt(f"Say {i}."), "answer": "red"} for i in range(9)]
        file = write_rows(tmp_path / "rows.jsonl", rows[:4])
        held_out = write_rows(tmp_path / "held.jsonl", rows[4:])
        own = sampling(name, 12, reward_functions={f"{__name__}:share_of_vowels": 1.0})
        own |= {} if name == "ppo" else {"num_generations": 4, "num_generations_eval": 3}
        train = {
            "max_steps": 8, "per_device_train_batch_size": 8 // number, "per_device_eval_batch_size": batch,
            "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "optim": "sgd",
            "learning_rate": 0.5, "lr_scheduler_type": "constant", "load_best_model_at_end": True,
            "metric_for_best_model": "reward", "greater_is_better": True,
        }  # fmt: skip
        kept = {"early_stopping_patience": 1}
        launch = {"num_processes": number}
        spec = make_spec(file, method=own, eval_path=str(held_out), train=train, run=kept, launch=launch)
        at: Path = new_run(replace(spec, choices={"method": name}), f"{name}-{number}x{batch}")
        ranks_of("tests.common_draws", "train", str(at), cwd=tmp_path, number=number)
        return at

    return run


@pytest.mark.parametrize("name", METHODS)
def test_best_checkpoint_and_early_stop_are_the_same_in_every_batch_and_number_of_processes(name, trained):
    runs = [trained(name, *divided) for divided in ((1, 8), (2, 1))]
    wanted = rewards_held_out(runs[0])
    best = max(range(len(wanted)), key=wanted.__getitem__)  # the first of equal ones
    assert len(set(wanted)) == len(wanted)
    assert best + 1 + 1 == len(wanted) < 8
    for run in runs:
        assert rewards_held_out(run) == pytest.approx(wanted, abs=1e-6)
        last = Path(str(get_last_checkpoint(run / rundir.CHECKPOINTS)))
        state = json.loads((last / "trainer_state.json").read_text())
        assert (state["global_step"], state["best_global_step"]) == (len(wanted), best + 1)
        assert state["best_metric"] == pytest.approx(wanted[best])


def rewards_held_out(run: Path) -> list[float]:
    """The mean reward of each evaluation."""
    lines = [json.loads(line) for line in (run / rundir.METRICS).read_text(encoding="utf-8").splitlines()]
    return [line["eval_reward"] for line in lines if "eval_reward" in line]
