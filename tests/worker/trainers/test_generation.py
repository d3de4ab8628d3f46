"""Who answers a rollout: continuous batching says what batches say, and vLLM is asked as TRL's own trainers ask it."""

from __future__ import annotations

import inspect
from typing import Any

import pyarrow.parquet as pq
import pytest
from trl.generation import vllm_generation

from ftcli.worker.trainers.rl import generation
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


def test_continuous_batching_takes_the_memory_of_one_rollout_and_not_all_that_is_free():
    cache = generation.cache_for([10, 60, 130], max_new_tokens=20)
    assert (cache.page_size, cache.num_blocks) == (64, 1 + 2 + 3 + 1)  # 30, 80 and 150 tokens, and one to spare
    assert cache.max_batch_tokens == 200
    assert generation.cache_for([5], 5).max_batch_tokens == 64
    assert generation.cache_for([9000], 5).max_batch_tokens == 8192


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
