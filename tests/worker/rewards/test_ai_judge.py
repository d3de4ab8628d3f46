"""A judge as a reward, and vLLM as the one who is asked: the same numbers as a local model's, whoever gives them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ftcli import tiny
from ftcli.core.errors import ConfigError, InterruptedRun
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis.backend import BudgetSpent, Question, Reply
from ftcli.synthesis.principles import Principle
from ftcli.synthesis.tasks import Judge, JudgeSettings
from ftcli.worker.inference.backend_transformers import LocalModel
from ftcli.worker.inference.backends import backend_of
from ftcli.worker.rewards.ai_judge import JudgeReward
from ftcli.worker.training.run import train
from tests.worker.conftest import write_rows
from tests.worker.rl import prompt, rl_spec, sampling

SHORT = Principle(name="short", judge="To {prompt}: is {answer} short?")


class Backend:
    """Says of each answer what a table says, as a text or with log-probabilities."""

    batch_size: int | None = 2
    concurrency = 2

    def __init__(self, table: dict[str, str | tuple[float, float]], budget: int = 100) -> None:
        self.table, self.budget = table, budget
        self.asked: list[str] = []

    def replies(self, asks: Sequence[Question]) -> list[Reply]:
        if len(self.asked) + len(asks) > self.budget:
            raise BudgetSpent("max_requests=1 is spent")
        self.asked += [ask.about[0] for ask in asks]
        said = [self.table[ask.about[0]] for ask in asks]
        return [Reply(text=each) if isinstance(each, str) else Reply(text="", choice_logps=each) for each in said]

    def about(self) -> dict[str, Any]:
        return {}


def judge(backend: Any) -> JudgeReward:
    return JudgeReward(backend, Judge(JudgeSettings(mode="score"), seed=0, principles=(SHORT,)))


@pytest.mark.parametrize("batch_size", [2, None])
def test_a_reward_is_the_probability_of_yes_and_is_asked_for_once(batch_size, capsys):
    table = {"a": (math.log(0.9), math.log(0.1)), "b": "No.", "c": "yes", "d": "perhaps"}
    backend = Backend(table)
    backend.batch_size = batch_size
    reward = judge(backend)
    found = reward([prompt("Speak.")] * 5, ["a", "b", "c", "d", "a"])
    assert found == pytest.approx([0.9, 0.0, 1.0, 0.0, 0.9])
    assert reward.unreadable == 1
    assert "neither yes nor no: 'perhaps'" in capsys.readouterr().err
    assert backend.asked.count("a") == backend.asked.count("b") == backend.asked.count("c") == 1
    assert backend.asked.count("d") == 3
    assert reward([prompt("Speak.")], ["a"]) == pytest.approx([0.9])
    assert len(backend.asked) == 6


def test_a_spent_budget_stops_the_run_and_says_what_can_be_done():
    with pytest.raises(InterruptedRun, match="max_requests=1 is spent"):
        judge(Backend({"a": "yes", "b": "yes"}, budget=1))([prompt("Speak.")] * 2, ["a", "b"])


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_policy_learns_from_a_local_judge(method, make_spec, new_run, models, tmp_path):
    rows = [{"prompt": prompt(f"Say {i}."), "answer": "red"} for i in range(16)]
    principles = tmp_path / "p.yaml"
    principles.write_text('principles:\n  - name: short\n    judge: "Is {answer} short?"\n', encoding="utf-8")
    own = {"judge": {"model": str(models["llama"])}, "judge_constitution": str(principles), "judge_weight": 2.0}
    own["rewards"] = {"ended": 1}
    asked = sampling(method, num_generations=4, **own) if method == "grpo" else sampling(method, **own)
    spec = rl_spec(make_spec, write_rows(tmp_path / "rows.jsonl", rows), models["llama"], asked, max_steps=2)
    run = new_run(spec, "run")
    train(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    told = next(line for line in lines if any("judge" in name for name in line))
    [value] = [value for name, value in told.items() if "judge" in name and "std" not in name]
    assert 0.0 < value < 1.0


# --- vLLM --------------------------------------------------------------------------------------------------------


def stand_in(model: Any, tokenizer: Any) -> ModuleType:
    """A module with vLLM's names and the arguments that it takes, which computes with transformers."""

    class SamplingParams:
        def __init__(
            self, *, temperature: float = 1.0, max_tokens: int = 16, seed: int | None = None,
            prompt_logprobs: int | None = None, stop_token_ids: list[int] | None = None,
        ) -> None:  # fmt: skip
            self.stop_token_ids = stop_token_ids
            self.temperature, self.max_tokens, self.prompt_logprobs = temperature, max_tokens, prompt_logprobs

    class LLM:
        def __init__(
            self, *, model: str, revision: str | None, trust_remote_code: bool, gpu_memory_utilization: float,
            max_model_len: int | None,
        ) -> None:  # fmt: skip
            assert model == str(tiny.MODEL_DIR)
            assert (trust_remote_code, gpu_memory_utilization) == (False, 0.5)

        def generate(self, prompts: Any, params: Any, *, use_tqdm: bool) -> list[Any]:
            return [self._one(p["prompt_token_ids"], how) for p, how in zip(prompts, params, strict=True)]

        def _one(self, ids: list[int], how: Any) -> Any:
            told: list[Any] | None = None
            with torch.no_grad():
                if how.prompt_logprobs is not None:
                    logps = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
                    told = [None]
                    told += [{t: SimpleNamespace(logprob=logps[i, t].item())} for i, t in enumerate(ids[1:])]
                new = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=how.max_tokens)[0, len(ids) :]
            text = tokenizer.decode(new, skip_special_tokens=True)
            answer = SimpleNamespace(text=text, token_ids=new.tolist())
            return SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=told, outputs=[answer])

    found = ModuleType("vllm")
    found.__spec__ = SimpleNamespace(name="vllm")  # type: ignore[assignment]
    found.LLM, found.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    return found


def test_vllm_is_asked_for_what_a_local_model_gives(monkeypatch):
    local = LocalModel(BackendSettings(model=str(tiny.MODEL_DIR)), "judge", {})
    monkeypatch.setitem(sys.modules, "vllm", stand_in(local.model, local.encoder.tokenizer))
    settings = BackendSettings(type="vllm", model=str(tiny.MODEL_DIR), gpu_memory_utilization=0.5)
    engine = backend_of(settings, "judge", {})
    plain = Question(turns=prompt("The red house"), temperature=0.0, max_new_tokens=5, seed=1)
    choice = replace(plain, choices=("yes", "no"))
    ours, theirs = (each.replies([choice, plain, choice, plain]) for each in (local, engine))
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.text, mine.prompt_tokens) == (other.text, other.prompt_tokens)
        if mine.choice_logps is not None:
            assert other.choice_logps == pytest.approx(mine.choice_logps, abs=1e-4)
    assert engine.about()["requests"] == 4


def test_without_vllm_and_with_an_adapter_one_is_told_what_to_do(monkeypatch, tmp_path):
    settings = BackendSettings(type="vllm", model=str(tiny.MODEL_DIR))
    with pytest.raises(ConfigError, match="vLLM is not installed"):
        backend_of(settings, "judge", {})
