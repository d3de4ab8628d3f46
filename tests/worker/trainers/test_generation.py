"""Who answers a rollout: continuous batching says what batches say, and vLLM is asked as TRL's own trainers ask it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from dataclasses import fields, make_dataclass, replace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import ContinuousBatchingConfig, LlamaConfig
from transformers.generation import configuration_utils
from transformers.generation.continuous_batching import utils
from trl.generation import vllm_generation

from ftcli.worker.trainers.rl import generation, grpo
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer, train
from tests.worker.conftest import write_rows
from tests.worker.rl import prompt, rewards_of, rl_spec, sampling


@pytest.fixture
def asked(tmp_path: Any) -> Any:
    """Prompts of different lengths."""
    return write_rows(tmp_path / "asked.jsonl", [{"prompt": prompt(f"Say {'very ' * (i % 4)}red.")} for i in range(8)])


def test_continuous_batching_gives_each_prompt_its_own_answer(make_spec, new_run, asked, models):
    method = sampling("ppo", longest=4, rewards={"ended": 1}, use_transformers_continuous_batching=True)
    spec = rl_spec(make_spec, asked, models["llama"], method, per_device_train_batch_size=4, max_steps=2)
    trainer = build_trainer(load(spec, new_run(spec, "run")))
    trainer.args.temperature, rows = 0.0, [trainer.train_dataset[i] for i in range(4)]
    continuous = trainer.answerer(trainer.model, rows)
    batched = generation.Batched(trainer)(trainer.model, rows)
    assert [(each.prompt_ids, each.answer_ids) for each in continuous] == [
        (each.prompt_ids, each.answer_ids) for each in batched
    ]


@pytest.fixture
def grouped(make_spec, new_run, asked, models) -> Any:
    """Makes a trainer that samples two answers to each prompt, so alike that there is one choice."""

    def make(name: str, dtype: str = "float32", **more: Any) -> Any:
        own = {} if name == "ppo" else {"num_generations": 2, "top_k": 1}
        how = {"longest": 4, "rewards": {"ended": 1}, "use_transformers_continuous_batching": True}
        method = sampling(name, **how, **own, **more)
        settings = {"per_device_train_batch_size": 4, "max_steps": 2, "bf16": dtype == "bfloat16"}
        spec = rl_spec(make_spec, asked, models["llama"], method, **settings)
        spec = replace(spec, model=replace(spec.model, dtype=dtype))
        return build_trainer(load(spec, new_run(spec, "run")))

    return make


def answers(trainer: Any, prompts: list[list[int]]) -> Any:
    """What a trainer of TRL's generates, as it does in training."""
    more = {"num_generations": 2} if "Grpo" in type(trainer).__name__ else {}
    found = trainer._generate_single_turn(prompts, None, {}, **more)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_continuous_batching_of_groups_says_what_batches_say_in_the_memory_of_each_rollout(name, grouped, monkeypatch):
    trainer = grouped(name)
    sizes = []
    real = trainer.model.generate_batch

    def generate_batch(*args: Any, continuous_batching_config: Any, **kwargs: Any) -> Any:
        sizes.append(continuous_batching_config.num_blocks)
        return real(*args, continuous_batching_config=continuous_batching_config, **kwargs)

    monkeypatch.setattr(trainer.model, "generate_batch", generate_batch)
    prompts = [list(row["prompt"]) for row in trainer.train_dataset]
    short, long = prompts[:2], [each * 6 for each in prompts[2:5]]
    continuous = [answers(trainer, each) for each in (short, long)]
    pages = [1 + sum(-(-(len(prompt) + 4) // 64) for prompt in each) for each in (short, long)]
    assert sizes == pages
    assert pages[0] < pages[1]
    trainer.use_transformers_continuous_batching = False
    assert continuous == [answers(trainer, each) for each in (short, long)]


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_continuous_batching_generates_in_the_computed_type_and_leaves_weights_that_train(name, grouped, monkeypatch):
    trainer = grouped(name, dtype="bfloat16")
    policy, real, seen = trainer.model, trainer.model.generate_batch, set()

    def generate_batch(*args: Any, **kwargs: Any) -> Any:
        seen.update(weights.dtype for weights in policy.parameters())
        return real(*args, **kwargs)

    monkeypatch.setattr(policy, "generate_batch", generate_batch)
    trainer.train()
    assert seen == {torch.bfloat16}
    assert {weights.dtype for weights in policy.parameters()} == {torch.float32}
    assert not all(weights.equal(weights.bfloat16().float()) for weights in policy.parameters())
    assert {each.dtype for each in policy.buffers() if each.is_floating_point()} == {torch.float32}
    assert trainer.args.bf16


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_a_failure_of_continuous_batching_ends_the_run_and_does_not_train_on_empty_answers(name, grouped, monkeypatch):
    trainer = grouped(name)
    # a cache of one page, which holds no answer beside its prompt
    small = ContinuousBatchingConfig(**{generation.PAGE: 4, "num_blocks": 1, "max_batch_tokens": 4})
    for module in (generation, grpo):
        monkeypatch.setattr(module, "cache_for", lambda *_: small)
    with pytest.raises(RuntimeError, match="left 4 of 4 prompts without an answer"):
        trainer.train()


def test_sizes_of_continuous_batching_that_are_set_are_kept(grouped):
    own = {"num_blocks": 50, generation.PAGE: 32}
    trainer = grouped("grpo", transformers_continuous_batching_config=own)
    answers(trainer, [list(trainer.train_dataset[0]["prompt"])])
    found = trainer.continuous_batching_config
    assert (found.num_blocks, getattr(found, generation.PAGE)) == (50, 32)


class Policy:
    """Two layers of one head of 8 numbers: keys and values of a token are 2 · 2 · 8 numbers of 4 bytes."""

    dtype = torch.float32
    config = LlamaConfig(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=8)


def test_continuous_batching_takes_the_memory_of_one_rollout_and_not_all_that_is_free():
    cache = generation.cache_for(Policy, [10, 60, 130], max_new_tokens=20)
    assert (getattr(cache, generation.PAGE), cache.num_blocks) == (
        64,
        1 + 2 + 3 + 1,
    )  # 30, 80 and 150 tokens, and one to spare
    assert cache.max_batch_tokens == 200
    assert generation.cache_for(Policy, [5], 5).max_batch_tokens == 64
    assert generation.cache_for(Policy, [9000], 5).max_batch_tokens == 8192
    own = generation.cache_for(Policy, [10, 60, 130], 20, {generation.PAGE: 128, "seed": 3})
    assert (own.num_blocks, getattr(own, generation.PAGE), own.seed) == (1 + 1 + 2 + 1, 128, 3)
    assert generation.cache_for(Policy, [5], 5, {"max_memory_percent": 0.2}).max_memory_percent == 0.2
    assert generation.cache_for(Policy, [70, 80], 5, {"num_blocks": 9}).max_batch_tokens == 150


def test_the_earliest_transformers_that_is_allowed_is_enough(monkeypatch):
    # 5.17 has no functions for the heads of a cache, and calls the size of its pages by another name
    for name in ("find_head_dim", "find_num_key_value_heads", "get_device_and_memory_breakdown"):
        monkeypatch.delattr(utils, name, raising=False)
    names = [each.name for each in fields(ContinuousBatchingConfig) if each.name not in ("page_size", "block_size")]
    earlier = make_dataclass("Earlier", [("block_size", int, 256), *((name, Any, None) for name in names)])
    monkeypatch.setattr(configuration_utils, "ContinuousBatchingConfig", earlier)
    found = importlib.util.spec_from_file_location("generation_of_5_17", generation.__file__)
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, found.name, module)
    found.loader.exec_module(module)
    cache = module.cache_for(Policy, [10, 60, 130], max_new_tokens=20)
    assert (cache.block_size, cache.num_blocks) == (64, 1 + 2 + 3 + 1)


@pytest.mark.parametrize(
    ("free", "fits"), [(2 * 128 * (32 + 2 * 64) * 4, True), (2 * 128 * (32 + 2 * 64) * 4 - 2, False)]
)
def test_a_rollout_that_half_of_the_free_memory_cannot_hold_is_answered_within_that_half(free, fits, monkeypatch):
    # one page for the answer and one to spare, 128 tokens: 32 numbers each, and a column in two masks of 64 rows
    taken = ("device", 1000 + free, 1000, 10)
    monkeypatch.setattr(generation, "get_device_and_memory_breakdown", lambda: taken)
    cache = generation.cache_for(Policy, [5], 5)
    assert cache.num_blocks == (2 if fits else None)
    assert cache.max_memory_percent == (None if fits else 0.5)


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_answers_are_logged_beside_the_text_of_their_prompts(name, make_spec, new_run, asked, models):
    method = sampling(name, longest=4, rewards={"ended": 1}, log_completions=True, num_generations=2)
    spec = rl_spec(make_spec, asked, models["llama"], method, per_device_train_batch_size=4, max_steps=1)
    run = new_run(spec, "run")
    train(run)
    files = list((run / "checkpoints").rglob("completions_*.parquet"))
    assert len(files) == (name == "grpo"), "the table of RLOO goes to a reporter only"
    for file in files:
        logged = pq.read_table(file).to_pydict()
        assert len(logged["prompt"]) == len(logged["completion"]) == 4
        assert all("red." in text for text in logged["prompt"])


def test_a_whole_number_is_a_temperature_too(make_spec, new_run, asked, models):
    method = sampling("grpo", longest=4, rewards={"ended": 1}, num_generations=2, temperature=2)
    spec = rl_spec(make_spec, asked, models["llama"], method, per_device_train_batch_size=4, max_steps=1)
    assert train(new_run(spec, "run"))["steps"] == 1


class Engine:
    """In vLLM's place: the same call, the same form of an answer."""

    made: list[Engine]

    def __init__(self, **how: Any) -> None:
        self.how, self.synced, self.calls = how, 0, 0
        Engine.made.append(self)

    def sync_weights(self) -> None:
        """Count."""
        self.synced += 1

    def generate(self, prompts: Any, images: Any, num_generations: int, profiler: Any = None) -> tuple[Any, ...]:
        """The prompt's length as an answer, then the end token and what vLLM would not put behind it."""
        assert self.synced > self.calls
        self.calls += 1
        return prompts, [[len(ids), 2, 0] for ids in prompts], None, None


def test_vllm_is_given_the_weights_before_each_rollout(make_spec, new_run, asked, models, monkeypatch):
    real = inspect.signature(vllm_generation.VLLMGeneration.__init__)
    real_generate = inspect.signature(vllm_generation.VLLMGeneration.generate)
    Engine.made = []
    monkeypatch.setattr(vllm_generation, "VLLMGeneration", Engine)
    method = sampling(
        "ppo", rewards={"length": {"most": 2}}, use_vllm=True, vllm_mode="server", vllm_server_base_url="http://x",
        temperature=0.5,
    )  # fmt: skip
    spec = rl_spec(make_spec, asked, models["llama"], method, per_device_train_batch_size=4, max_steps=6)
    run = new_run(spec, "run")
    train(run)
    [engine] = Engine.made
    real.bind(None, **engine.how)
    real_generate.bind(None, prompts=[], images=None, num_generations=1)
    assert (engine.how["mode"], engine.how["temperature"], engine.how["max_completion_length"]) == ("server", 0.5, 8)
    assert engine.synced == 3  # two passes over each rollout
    assert rewards_of(run) == [1.0, 1.0, 1.0]
