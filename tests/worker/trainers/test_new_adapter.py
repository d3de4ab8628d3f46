"""PPO puts an adapter on its policy as TRL's trainers do, also under ZeRO-3."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl.trainer import grpo_trainer, rloo_trainer

from ftcli.worker.trainers.new_adapter import with_new_adapter


def adapted(models: Any, stage: int | None, *, quantised: bool = False, **more: Any) -> tuple[Any, Any]:
    """A bfloat16 model with a new adapter, and the arguments of its trainer."""
    model = AutoModelForCausalLM.from_pretrained(models["llama"], dtype=torch.bfloat16)
    model.is_loaded_in_4bit = quantised
    plugin = None if stage is None else SimpleNamespace(zero_stage=stage)
    given: dict[str, Any] = {"gradient_checkpointing": False, "gradient_checkpointing_kwargs": None, **more}
    args = SimpleNamespace(deepspeed_plugin=plugin, **given)
    return with_new_adapter(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]), args), args


@pytest.mark.parametrize(
    ("stage", "quantised", "expected"),
    [
        (None, False, torch.float32),
        (2, False, torch.float32),
        (3, False, torch.bfloat16),
        (3, True, torch.float32),
    ],
)
def test_an_adapter_has_the_type_of_its_base_under_zero3_alone(
    stage: int | None, quantised: bool, expected: torch.dtype, models: Any
) -> None:
    model, _ = adapted(models, stage, quantised=quantised)
    assert {each.dtype for each in model.parameters() if each.requires_grad} == {expected}


@pytest.mark.parametrize(("stage", "expected"), [(None, None), (2, None), (3, {"use_reentrant": True})])
def test_layers_are_recomputed_the_older_way_under_zero3_alone(stage: int | None, expected: Any, models: Any) -> None:
    model, args = adapted(models, stage, gradient_checkpointing=True)
    assert args.gradient_checkpointing_kwargs == expected
    embedded = model.get_input_embeddings()(torch.tensor([[1, 2]]))
    assert embedded.requires_grad  # so that what is recomputed has a gradient
    _, off = adapted(models, stage)
    assert off.gradient_checkpointing_kwargs is None


def test_what_else_is_set_for_checkpointing_stays(models: Any) -> None:
    _, args = adapted(models, 3, gradient_checkpointing=True, gradient_checkpointing_kwargs={"every_n_layers": 2})
    assert args.gradient_checkpointing_kwargs == {"every_n_layers": 2, "use_reentrant": True}


@pytest.mark.parametrize("module", [grpo_trainer, rloo_trainer])
def test_trl_still_has_both_rules(module: Any) -> None:
    # When TRL drops one, because DeepSpeed no longer needs it, ours can go too.
    source = " ".join(inspect.getsource(module).split())
    assert (
        'plugin.zero_stage == 3 and not _is_quantized_model: get_peft_model_kwargs["autocast_adapter_dtype"] = False'
        in source
    )
    assert 'args.gradient_checkpointing_kwargs["use_reentrant"] = True' in source
