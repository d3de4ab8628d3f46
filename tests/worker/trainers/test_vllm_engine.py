"""vLLM as TRL's own trainers start it: only the engine is a stand-in, which takes what vLLM takes and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import distributed
from trl.generation import vllm_generation

from ftcli.build.checks.vllm_rules import VLLM_TOKENS_A_PASS
from ftcli.core.errors import ConfigError
from ftcli.peft_methods import PEFT_METHODS, PeftMethod
from ftcli.worker.commands.eval import evaluate
from ftcli.worker.trainers.rl import vllm_engine
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer, train
from tests import standin_vllm
from tests.standin_vllm import Engine
from tests.worker.conftest import write_rows
from tests.worker.rl import prompt, rl_spec, sampling

METHODS = ("ppo", "grpo", "rloo", "distillation")
LONGEST = 4
"""Tokens of the longest answer."""


@pytest.fixture(autouse=True)
def _vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in where TRL imports vLLM; TRL also leaves its ranks in the environment, by which a second run in this
    process would make a group of one."""
    standin_vllm.install(partial(monkeypatch.setattr, raising=False))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def make(make_spec: Any, models: Any, tmp_path: Any) -> Any:
    """Makes the spec of a run that samples with vLLM; the longest prompt is held out."""
    asked = write_rows(tmp_path / "asked.jsonl", [{"prompt": prompt(f"Say {'very ' * i}red.")} for i in range(8)])
    held = write_rows(tmp_path / "held.jsonl", [{"prompt": prompt(f"Say {'very ' * 12}red.")}] * 2)

    def spec_of(name: str, *, method: Any = None, peft: Any = None, **train_settings: Any) -> Any:
        more: dict[str, Any] = {"teacher_model": str(models["llama"])} if name == "distillation" else {}
        more = more or {"rewards": {"ended": 1}}
        own = sampling(name, longest=LONGEST, use_vllm=True, **more, **(method or {}))
        if name == "distillation":
            own = {key: value for key, value in own.items() if key not in ("beta", "num_generations")}
        elif name != "ppo":
            own["num_generations"] = 2
        settings = {"per_device_train_batch_size": 4, "max_steps": 2, **train_settings}
        spec = rl_spec(make_spec, asked, models["llama"], own, **settings)
        model, data = replace(spec.model, dtype="float32"), replace(spec.data, eval_path=str(held))
        return replace(spec, peft=peft or spec.peft, model=model, data=data)

    return spec_of


def engine_of(trainer: Any) -> Any:
    """TRL's own generation, which holds the engine."""
    return trainer.answerer.engine if hasattr(trainer, "answerer") else trainer.vllm_generation


@pytest.mark.parametrize("name", METHODS)
def test_an_engine_has_the_run_s_type_seed_ends_and_longest_sequence(name, make, new_run, models, tokenizer):
    spec = make(name)
    assert train(new_run(spec, "run"))["steps"] == 2
    [engine] = Engine.made
    asked = prompt(f"Say {'very ' * 12}red.")
    longest = len(tokenizer.apply_chat_template(asked, add_generation_prompt=True).input_ids)
    expected = {
        "model": str(models["llama"]), "dtype": "float32", "seed": spec.seed, "max_model_len": longest + LONGEST,
        "max_num_seqs": 4, "tensor_parallel_size": 1, "gpu_memory_utilization": 0.3, "quantization": None,
        "max_num_batched_tokens": VLLM_TOKENS_A_PASS, "logprobs_mode": "processed_logprobs",
        "trust_remote_code": False,
    }  # fmt: skip
    assert {key: engine.how[key] for key in expected} == expected
    assert (engine.params.max_tokens, engine.params.temperature) == (LONGEST, 1.0)
    assert engine.params.stop_token_ids == [tokenizer.eos_token_id]
    assert set(engine.received) == set(dict(engine.policy.named_parameters()))


def test_each_seed_and_each_group_of_processes_draws_by_itself(make, monkeypatch):
    monkeypatch.setattr(vllm_generation, "LLM", lambda **given: given)

    def started(seed: int, group: int) -> dict[str, Any]:
        config = SimpleNamespace(use_vllm=True, vllm_mode="colocate", world_size=4, vllm_tensor_parallel_size=2)
        spec = replace(make("grpo"), seed=seed)
        spec = replace(spec, model=replace(spec.model, name_or_path="org/name", revision="v1", trust_remote_code=True))
        with vllm_engine.as_the_run(spec, config):
            return vllm_generation.LLM(model="org/name", seed=group)

    # four processes in groups of two: two groups, whose processes draw alike
    found = [started(seed, group) for seed in (3, 4) for group in (0, 1)]
    assert [each["seed"] for each in found] == [6, 7, 8, 9]
    assert started(2**32 - 1, 1)["seed"] == 2**32 - 1  # the largest that numpy takes
    place = {"revision": "v1", "tokenizer_revision": "v1", "trust_remote_code": True, "dtype": "float32"}
    assert place.items() <= found[0].items()


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_an_engine_computes_in_half_precision_beside_weights_that_train_in_float32(name, make, new_run):
    spec = make(name, bf16=True)
    spec = replace(spec, model=replace(spec.model, dtype="bfloat16"))
    trainer = build_trainer(load(spec, new_run(spec, "run")))
    [engine] = Engine.made
    assert engine.how["dtype"] == "bfloat16"
    assert {each.dtype for each in trainer.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["grpo", "distillation"])
def test_a_run_is_measured_afterwards_without_an_engine(name, make, new_run):
    spec = make(name)
    run = new_run(spec, "run")
    train(run)
    Engine.made.clear()
    rows = {"rows": 2, "score_rows": 2 if name == "grpo" else None}
    found = evaluate({"run": str(run), "data": None, **rows})
    assert found["rows"] == 2
    assert Engine.made == []


def test_the_sampling_parameters_that_were_set_are_kept(make, new_run):
    spec = make("grpo", method={"generation_kwargs": {"presence_penalty": 0.5, "stop_token_ids": [5]}})
    train(new_run(spec, "run"))
    assert (Engine.made[0].params.presence_penalty, Engine.made[0].params.stop_token_ids) == (0.5, [5])


@pytest.mark.parametrize("name", ["ppo", "distillation"])
def test_a_limit_that_was_set_is_kept_and_one_that_is_too_short_is_refused(name, make, new_run):
    spec = make(name, method={"vllm_max_model_length": 200})
    assert load(spec, new_run(spec, "long")).config.vllm_max_model_length == 200
    spec = make(name, method={"vllm_max_model_length": 20})
    with pytest.raises(ConfigError, match=r"is 20; the longest prompt has \d+ tokens, and an answer up to 4"):
        load(spec, new_run(spec, "short"))


def test_answers_that_the_model_has_no_positions_for_are_refused(make, new_run):
    spec = make("grpo", method={"max_completion_length": 250})
    with pytest.raises(ConfigError, match="the model has 256 positions"):
        load(spec, new_run(spec, "run"))


def test_a_server_is_left_to_its_own_length_and_told_where_answers_end(make, new_run, tokenizer):
    spec = make("grpo", method={"vllm_mode": "server"})
    config = load(spec, new_run(spec, "run")).config
    assert config.vllm_max_model_length is None
    assert config.generation_kwargs == {"stop_token_ids": [tokenizer.eos_token_id]}


def is_sampled(each: PeftMethod) -> bool:
    """Whether vLLM can sample from an adapter on a plain base."""
    return bool(each.adapter and each.kind and not (each.never_merges or each.never_in_vllm or each.implies))


MERGED = [
    *[{"name": name} for name, each in PEFT_METHODS.items() if is_sampled(each)],
    *[{"name": "other", "type": kind} for kind in ("LOHA", "LOKR", "BOFT", "LN_TUNING")],
    {"name": "other", "type": "HRA", "r": 8},
    {"name": "other", "type": "MISS", "r": 8},
    {"name": "other", "type": "FOURIERFT", "n_frequency": 16},
    {"name": "lora", "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    {"name": "lora", "modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    {"name": "freeze", "num_layers": 1},
]


@pytest.mark.parametrize("peft", MERGED, ids=lambda each: "-".join(map(str, each.values())))
def test_an_engine_receives_the_weights_that_would_be_merged(peft, make, new_run):
    spec = make("rloo", peft={**peft})
    run = load(spec, new_run(spec, "run"))
    trainer = build_trainer(run)
    generator = torch.Generator().manual_seed(1)
    for each in trainer.model.parameters():
        if each.requires_grad:
            each.data += 0.02 * torch.randn(each.shape, generator=generator)
    before = {name: each.clone() for name, each in trainer.model.named_parameters()}
    engine_of(trainer).sync_weights()
    [engine] = Engine.made
    rows = torch.tensor([run.data.train[0]["prompt_ids"]])
    trainer.model.eval()
    with torch.no_grad():
        ours, theirs = trainer.model(rows).logits, engine.policy(rows).logits
    assert torch.allclose(ours, theirs, atol=2e-5), (ours - theirs).abs().max()
    for name, each in trainer.model.named_parameters():
        assert torch.allclose(each, before[name], atol=1e-5), name


# What TRL hands over beside, or in place of, the merged weights: check refuses these.
REFUSED = [
    {"name": "adalora"},
    {"name": "lora", "trainable_token_indices": [5, 6]},
]


@pytest.mark.parametrize("peft", REFUSED, ids=lambda each: "-".join(map(str, each.values())))
def test_what_is_refused_would_be_handed_over_under_names_that_the_model_has_not(peft, make, new_run):
    spec = make("rloo", peft={**peft})
    trainer = build_trainer(load(spec, new_run(spec, "run")))
    with pytest.raises(KeyError, match=r"ranknum|token_adapter"):
        engine_of(trainer).sync_weights()
