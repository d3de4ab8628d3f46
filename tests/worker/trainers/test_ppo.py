"""PPO's trainer: the same log-probabilities at generation and in training, every kind of policy and reward."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ftcli.core.errors import ConfigError
from ftcli.settings.groups import QuantisationSettings
from ftcli.worker.distributed.sharded import is_sharded
from ftcli.worker.inference.sampling import stop_ids, until_end
from ftcli.worker.trainers.rl.logprobs import Layout, batch_of, filled, layout_of
from ftcli.worker.trainers.rl.ppo_math import kl_estimate
from ftcli.worker.trainers.rl.reward_shaping import Shaping, spread
from ftcli.worker.trainers.rl.rollouts import RolloutSampler
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer, train
from tests.worker.conftest import LORA, pair_of_answers, weights, write_rows
from tests.worker.rl import prompt, rewards_of, rl_spec, sampling

TEMPERATURE = 0.7


@pytest.fixture
def asked(tmp_path: Any) -> Any:
    """Prompts of different lengths, with their answers."""
    rows = [{"prompt": prompt(f"Say {'very ' * (i % 4)}red."), "answer": "red"} for i in range(16)]
    return write_rows(tmp_path / "asked.jsonl", rows)


def made(spec: Any, run_dir: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The trainer of a spec, and its first rows."""
    trainer = build_trainer(load(spec, run_dir))
    return trainer, [trainer.train_dataset[i] for i in range(8)]


def generated(trainer: Any, rows: list[dict[str, Any]], *, together: bool) -> list[tuple[list[int], list[int], Tensor]]:
    """Prompts, sampled answers and the log-probabilities that they were sampled with, padded on the left or alone."""
    model, found = trainer.model.eval(), []
    ends = stop_ids(model, trainer.tokenizer)
    for batch in [rows] if together else [[row] for row in rows]:
        longest = max(len(row["prompt_ids"]) for row in batch)
        pads = [longest - len(row["prompt_ids"]) for row in batch]
        ids = torch.tensor(
            [[trainer.tokenizer.pad_token_id] * n + row["prompt_ids"] for n, row in zip(pads, batch, strict=True)]
        )
        mask = torch.tensor([[0] * n + [1] * len(row["prompt_ids"]) for n, row in zip(pads, batch, strict=True)])
        out = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0,
            max_new_tokens=12, eos_token_id=ends, pad_token_id=trainer.tokenizer.pad_token_id,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        logps = (torch.stack(out.logits, 1) / TEMPERATURE).log_softmax(-1)
        for i, row in enumerate(batch):
            answer, _ = until_end(out.sequences[i, longest:].tolist(), ends)
            own = logps[i, : len(answer)].gather(1, torch.tensor(answer)[:, None]).squeeze(1)
            found.append((row["prompt_ids"], answer, own))
    return found


LAYOUTS = [Layout.ALONE, Layout.SHARED, Layout.ONE_ROW, Layout.UNPADDED]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_log_probabilities_in_training_are_those_of_generation(
    adapter, together, layout, make_spec, new_run, asked, models
):
    method = sampling("ppo", rewards={"ended": 1}, temperature=TEMPERATURE)
    spec = rl_spec(make_spec, asked, models["llama"], method)
    trainer, rows = made(replace(spec, peft=LORA) if adapter else spec, new_run(spec, "run"))
    if adapter:  # not at its start, where it does nothing
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    answers = generated(trainer, rows, together=together)
    pairs, pad_token_id = [(p, a) for p, a, _ in answers], trainer.tokenizer.pad_token_id
    batch = batch_of(pairs, pad_token_id, torch.device("cpu"), layout)
    num_rows = len(batch.input_ids)
    assert num_rows == len(pairs) if layout is Layout.ALONE else num_rows < len(pairs)
    with torch.no_grad():
        logps, entropy, _ = trainer.models.policy(trainer.model, batch)
        reference = trainer.models.reference(batch)
    for row, (_, answer, expected) in enumerate(answers):
        torch.testing.assert_close(logps[row, : len(answer)], expected, atol=1e-4, rtol=0)
        assert not logps[row, len(answer) :].any()
    assert (entropy >= 0).all()
    moved = kl_estimate(logps, reference).abs().max().item()
    assert (moved > 1e-3) == adapter


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("value_model", ["head", "network"])
def test_values_of_an_answer_are_the_same_alone_and_beside_others(
    value_model, layout, make_spec, new_run, asked, models, judge
):
    method = sampling(
        "ppo", reward_model=str(judge), value_model="reward_model" if value_model == "network" else "head"
    )
    trainer, rows = made(rl_spec(make_spec, asked, models["llama"], method), new_run(make_spec(asked), "run"))
    if value_model == "head":
        torch.nn.init.normal_(trainer.models.critic.score.weight)
    pairs = [(row["prompt_ids"], [5, 6, 7][: 1 + i % 3]) for i, row in enumerate(rows)]
    with torch.no_grad():
        batch = batch_of(pairs, 0, torch.device("cpu"), layout)
        together = trainer.models.policy(trainer.model, batch)[2]
        for i, pair in enumerate(pairs):
            alone = trainer.models.policy(trainer.model, batch_of([pair], 0, torch.device("cpu")))[2][0]
            torch.testing.assert_close(together[i, : len(pair[1])], alone, atol=1e-5, rtol=0)


@pytest.fixture
def judge(make_spec: Any, new_run: Any, tmp_path: Any) -> Any:
    """A reward model."""
    file = write_rows(tmp_path / "pairs.jsonl", [pair_of_answers(i) for i in range(24)])
    run = new_run(make_spec(file, method={"name": "reward"}), "judge")
    train(run)
    return run


@pytest.mark.parametrize("policy", ["full", "lora", "qlora"])
@pytest.mark.parametrize("reward", ["reward_model", "rewards"])
def test_every_kind_of_policy_learns_from_every_kind_of_reward(
    policy, reward, make_spec, new_run, asked, models, judge
):
    given = (
        {"reward_model": str(judge)} if reward == "reward_model" else {"rewards": {"length": {"most": 2}, "ended": 0.5}}
    )
    method = sampling("ppo", **given, num_mini_batches=2, missing_eos_penalty=0.5, reward_clip=5.0, entropy_coef=0.01)
    method |= (
        {"value_model": "reward_model", "score_at": "each"}
        if reward == "reward_model"
        else {"log_completions_steps": 1}
    )
    spec = rl_spec(make_spec, asked, models["llama"], method, per_device_train_batch_size=4, max_steps=8)
    if policy != "full":
        spec = replace(spec, peft=LORA)
    if policy == "qlora":
        spec = replace(spec, quantisation=QuantisationSettings(type="nf4", compute_dtype="float32"))
    run = new_run(spec, "run")
    result = train(run)
    assert result["steps"] == 8
    assert len(rewards_of(run)) == 2  # two rollouts of two minibatches, two passes each
    assert any(tensor.abs().sum() > 0 for name, tensor in weights(run).items() if "lora_B" in name or policy == "full")
    assert not any("critic" in name or "value" in name for name in weights(run))
    if reward == "rewards":
        lines = [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]
        assert {"step", "prompt", "answer", "ended", "reward", "length"} <= lines[0].keys()


def test_the_critic_learns_at_its_own_rate_on_the_policys_schedule(make_spec, new_run, asked, models):
    # Of 4 steps 2 warm up and 2 fall: after the third the rate is half of the highest.
    method = sampling("ppo", rewards={"ended": 1}, value_learning_rate=1e-2)
    how = {"lr_scheduler_type": "linear", "warmup_steps": 2, "save_strategy": "steps", "save_steps": 3, "max_steps": 4}
    run = new_run(rl_spec(make_spec, asked, models["llama"], method, learning_rate=1e-3, **how), "run")
    train(run)
    saved = torch.load(run / "checkpoints" / "checkpoint-3" / "optimizer.pt", weights_only=True)
    rates = [group["lr"] for group in saved["param_groups"]]
    assert rates == [pytest.approx(rate) for rate in (5e-4, 5e-4, 5e-3)]  # weights, biases and norms, the critic
    assert [group["initial_lr"] for group in saved["param_groups"]] == [1e-3, 1e-3, 1e-2]


@pytest.mark.parametrize("peft", [None, LORA, {"name": "prompt", "num_virtual_tokens": 4}])
def test_answers_share_rows_only_where_nothing_would_mix_them_up(peft, make_spec, new_run, asked, models):
    spec = rl_spec(make_spec, asked, models["llama"], sampling("ppo", rewards={"ended": 1}))
    trainer, _ = made(spec if peft is None else replace(spec, peft=peft), new_run(spec, "run"))
    prompts = peft is not None and peft["name"] == "prompt"
    assert trainer.models.layout is (Layout.ALONE if prompts else Layout.UNPADDED)
    network = trainer.model.get_base_model() if peft else trainer.model
    for kernel, layout in (
        ("sdpa", Layout.UNPADDED), ("eager", Layout.SHARED), ("flash_attention_2", Layout.ONE_ROW),
    ):  # fmt: skip
        network.config._attn_implementation = kernel
        assert layout_of([network], None) is layout
    network.config.model_type = "opt"
    assert layout_of([network], None) is Layout.ALONE


def test_rows_are_as_equal_as_may_be_and_hold_every_answer_once():
    rows = filled([9, 1, 8, 2, 7, 3], capacity=10)
    assert sorted(i for row in rows for i in row) == list(range(6))
    assert sorted(sum((9, 1, 8, 2, 7, 3)[i] for i in row) for row in rows) == [10, 10, 10]
    assert filled([5], capacity=100) == [[0]]


def test_every_row_is_in_an_epoch_and_a_group_stays_together():
    sampler = RolloutSampler(10, 4, 2, seed=1, group=2)
    seen = list(sampler)
    assert len(seen) == len(sampler) == 3 * 4 * 2 * 2
    assert set(seen) == set(range(10))
    rollouts = [seen[i : i + 8] for i in range(0, len(seen), 8)]
    assert rollouts[0] == rollouts[1]
    assert rollouts[0] != rollouts[2]
    assert all(rollout[0::2] == rollout[1::2] for rollout in rollouts)
    sampler.set_epoch(1)
    assert list(sampler) != seen
    again = RolloutSampler(10, 4, 2, seed=1, group=2)
    assert list(again) == seen


def test_scores_are_normalised_clipped_and_less_without_an_end():
    how = type("How", (), {"normalise_rewards": False, "reward_clip": 2.0, "missing_eos_penalty": 1.0})
    shaping = Shaping(how)
    found = shaping(torch.tensor([5.0, -0.5]), torch.tensor([False, True]), lambda sums: sums)
    assert found.tolist() == [1.0, -0.5]
    how.normalise_rewards, how.reward_clip, how.missing_eos_penalty = True, None, None
    found = shaping(torch.tensor([1.0, 3.0]), torch.tensor([True, True]), lambda sums: sums)
    # Mean 2, sample deviation sqrt(2).
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0]) / 2**0.5)
    later = shaping(torch.tensor([2.0, 2.0]), torch.tensor([True, True]), lambda sums: sums)
    assert later.abs().max() < 1e-6


def test_a_score_that_is_spread_adds_up_to_itself():
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    found = spread(torch.tensor([[0.5, 1.0, 3.0], [2.0, 2.5, 9.0]]), torch.tensor([4.0, 1.0]), mask)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, 3.0], [2.0, -1.0, 0.0]]))


@pytest.mark.parametrize(
    ("version", "fp16", "refused"),
    [(2, False, None), (1, False, "train.fsdp_config.version"), (2, True, "train.fp16")],
)
def test_what_a_critic_cannot_follow_is_refused(version, fp16, refused):
    plugin = SimpleNamespace(fsdp_version=version)
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    args = SimpleNamespace(fp16=fp16)
    trainer: Any = SimpleNamespace(is_fsdp_enabled=True, is_deepspeed_enabled=False, accelerator=accelerator, args=args)
    if refused is None:
        assert is_sharded(trainer)
    else:
        with pytest.raises(ConfigError, match=refused):
            is_sharded(trainer)
