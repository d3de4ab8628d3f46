"""PPO, GRPO and RLOO: tasks with a known optimum are solved, and a huge penalty keeps the policy where it was."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest
import torch

from ftcli.core.errors import ConfigError, DataError
from ftcli.runs.metrics import read_metrics
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer, train
from tests.worker.conftest import LORA, same_weights, write_rows
from tests.worker.rl import prompt, prompts_file, rewards_of, rl_spec, sampling, taught, whole_and_resumed

METHODS = ("ppo", "grpo", "rloo")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("words", "function"), [(1, "arms"), (3, "share_of_red")])
def test_a_task_with_a_known_optimum_is_solved(name, words, function, make_spec, new_run, tmp_path, once):
    model, file = taught(once, make_spec, words), prompts_file(tmp_path, words)
    method = sampling(name, reward_functions={f"tests.worker.rl:{function}": 1.0})
    how: dict[str, float] = {"per_device_train_batch_size": 32, "max_steps": 60 if words == 1 else 100}
    if name == "ppo":  # a critic has to be learned as well
        method |= {"kl_coef": 0.02, "cliprange": 0.1, "vf_coef": 0.5}
        how = {"per_device_train_batch_size": 64, "max_steps": 140, "learning_rate": 2e-3}
    run = new_run(rl_spec(make_spec, file, model, method, **how), name)
    train(run)
    rewards = rewards_of(run)
    assert mean(rewards[:2]) < 0.7  # four words by chance are worth 0.475, three 0.25
    assert mean(rewards[-5:]) >= 0.95


@pytest.mark.parametrize("name", METHODS)
def test_a_huge_penalty_keeps_the_policy_at_the_reference(name, make_spec, new_run, tmp_path, once):
    model, file = taught(once, make_spec, 1), prompts_file(tmp_path, 1)
    method = sampling(name, kl=100.0, reward_functions={"tests.worker.rl:arms": 1.0})
    spec = rl_spec(make_spec, file, model, method, max_steps=40, learning_rate=1e-4, max_grad_norm=1.0)
    run_dir = new_run(spec, "run")
    run = load(spec, run_dir)
    trainer = build_trainer(run)
    trainer.train()
    ids = torch.tensor([run.encoder.prompt_ids(prompt("Pick."))])
    with torch.no_grad():
        ours, theirs = (each(input_ids=ids).logits[0, -1].log_softmax(0) for each in (trainer.model, trainer.ref_model))
    moved = (ours.exp() * (ours - theirs)).sum().item()
    assert moved >= -1e-6
    assert moved < 1e-3


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("adapter", [False, True])
def test_an_interrupted_run_resumes_to_the_same_weights_also_within_a_rollout(
    name, adapter, make_spec, new_run, tmp_path, models
):
    """Saved at step 3, in the middle of a rollout that is learned from in 4 steps."""
    rows = [{"prompt": prompt(f"Say {i}."), "answer": "red"} for i in range(24)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    method = sampling(name, rewards={"length": {"most": 2}, "regex": {"pattern": "[aeiou]", "weight": 0.5}})
    if name == "ppo":
        method |= {"num_mini_batches": 2, "kl_target": 1.0, "normalise_rewards": True, "value_learning_rate": 3e-2}
    method |= {} if name == "ppo" else {"steps_per_generation": 2, "num_iterations": 2, "num_generations": 4}
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 4}
    spec = rl_spec(make_spec, file, models["llama"], method, **settings, logging_steps=2)
    spec = replace(spec, peft=LORA) if adapter else spec
    whole, resumed = whole_and_resumed(spec, new_run)
    assert same_weights(whole, resumed)
    ours, theirs = (
        {line["step"]: (line["loss"], line.get("loss_over")) for line in read_metrics(run / "metrics.jsonl")}
        for run in (resumed, whole)
    )
    assert ours[4] == pytest.approx(theirs[4])  # whose first step was trained before the run was interrupted


def test_a_column_that_a_rule_reads_has_to_be_there(make_spec, new_run, tmp_path, models):
    file = write_rows(
        tmp_path / "rows.jsonl", [{"prompt": prompt("Say red."), "answer": "red"}, {"prompt": prompt("?")}]
    )
    spec = rl_spec(make_spec, file, models["llama"], sampling("ppo", rewards={"exact_answer": 1}))
    with pytest.raises(DataError, match=r"1 rows have no column 'answer', which method\.rewards\.exact_answer reads"):
        load(spec, new_run(spec, "run"))


def test_a_function_that_gives_no_number_is_named(make_spec, new_run, tmp_path, models):
    file = prompts_file(tmp_path, 1)
    spec = rl_spec(make_spec, file, models["llama"], sampling("ppo", reward_functions={"builtins:dict": 1.0}))
    with pytest.raises(ConfigError, match="builtins:dict did not return one number for each of 16 answers"):
        train(new_run(spec, "run"))
    spec = rl_spec(make_spec, file, models["llama"], sampling("ppo", reward_functions={"no.such:thing": 1.0}))
    with pytest.raises(ConfigError, match="cannot be imported"):
        load(spec, new_run(spec, "other"))


@pytest.mark.parametrize("name", METHODS)
def test_the_logged_loss_is_the_mean_over_all_tokens_since_the_line_before(name, make_spec, new_run, tmp_path, once):
    """Two runs that train alike, one logged at each step and one at the first and every third."""
    rows = [{"prompt": prompt(f"Pick {'moon ' * i}three."), "answer": "red"} for i in range(8)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    model = taught(once, make_spec, 3)
    method = sampling(name, rewards={"length": {"most": 2}, "regex": {"pattern": "[aeiou]", "weight": 0.5}})
    method |= {"num_mini_batches": 2} if name == "ppo" else {"num_generations": 4}
    lines = []
    for every in (1, 3):
        settings = {"max_steps": 6, "logging_steps": every, "per_device_train_batch_size": 4}
        spec = rl_spec(make_spec, file, model, method, **settings, gradient_accumulation_steps=2)
        run = new_run(spec, str(every))
        train(run)
        lines.append([line for line in read_metrics(run / "metrics.jsonl") if "loss" in line])
    each, thirds = lines
    assert len(each) == 6
    assert [line["step"] for line in thirds] == [1, 3, 6]
    for line, steps in zip(thirds, (each[:1], each[1:3], each[3:]), strict=True):
        over = [step.get("loss_over", 1.0) for step in steps]
        if name == "rloo":  # a mean over answers, of which each step has as many
            assert "loss_over" not in line
        else:
            assert line["loss_over"] == pytest.approx(sum(over))
            assert len(set(over)) == len(steps)
        expected = sum(step["loss"] * number for step, number in zip(steps, over, strict=True)) / sum(over)
        assert line["loss"] == pytest.approx(expected, rel=1e-4, abs=1e-7)
