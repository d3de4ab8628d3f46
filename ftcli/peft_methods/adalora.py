"""Adaptive budgets (Zhang et al. 2023, arXiv:2303.10512): ranks are pruned where they matter least.

The schedule is in optimiser steps, so it is set when the run knows how many it has: no pruning in the first tenth and
the last half (the paper's appendix has 9-12 % and 44-58 %) unless the settings differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ftcli.core.errors import Problem
from ftcli.models.shape import Shape
from ftcli.peft_methods.lora import LORA
from ftcli.peft_methods.parameter_counts import (
    Settings,
    adapter_parameters,
    refuse_layers_of_a_pattern,
    whole_number,
)
from ftcli.settings.library_fields import value_of
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import Default

CONFIG = "peft.tuners.adalora.config:AdaLoraConfig"

_QUERY_VALUE = ("q_proj", "v_proj")
# PEFT's own targets by the model's type (peft/utils/constants.py, 0.21).
TARGETS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _QUERY_VALUE),
    "gpt2": ("c_attn",),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}
# Fields that AdaLoraConfig inherits and its layers ignore or refuse.
_NOT_ITS_OWN = ("use_dora", "use_rslora", "init_lora_weights", "loftq_config", "alpha_pattern", "lora_bias")


def check(settings: Mapping[str, Any]) -> list[Problem]:
    """The target rank must be below the initial rank."""
    target, first = (value_of(CONFIG, settings, name) for name in ("target_r", "init_r"))
    if target < first:
        return []
    what = f"peft.target_r={target} is not below peft.init_r={first}, so nothing would be pruned"
    return [Problem("peft.target_r", what, "set it below peft.init_r, or choose peft=lora")]


def count(shape: Shape, settings: Settings) -> int | None:
    """The singular form P Λ Q before pruning: r × (in + out + 1) (Zhang et al. 2023, arXiv:2303.10512, eq. 3).

    PEFT's `ranknum`, the remaining rank, is one more parameter per module, but it is frozen and not counted.
    """
    if settings.get("use_dora"):
        raise ValueError("PEFT's AdaLoRA does not support use_dora")
    refuse_layers_of_a_pattern(settings.get("target_modules"), settings.get("layers_to_transform"))
    rank = whole_number(settings, "init_r", CONFIG)
    default = TARGETS.get(shape.model_type, ())
    return adapter_parameters(
        shape, settings, lambda module: rank * (module.in_features + module.out_features + 1), default
    )


ADALORA = replace(
    LORA,
    name="adalora",
    kind="ADALORA",
    summary="LoRA that prunes ranks in the layers that need them least.",
    paper="Zhang et al. 2023, arXiv:2303.10512",
    config=CONFIG,
    defaults={
        **{name: value for name, value in LORA.defaults.items() if name != "r"},
        "init_r": 24,
        "target_r": 16,
        "deltaT": 10,
        "orth_reg_weight": 0.1,
    },
    owned={
        **dict.fromkeys(
            _NOT_ITS_OWN, "peft=lora and its variants: AdaLoRA has its own parametrisation and initialisation"
        ),
        "total_step": "the run's number of steps",
        "r": "peft.init_r",
        "rank_pattern": "the pruning itself",
    },
    limits={
        **{name: limit for name, limit in LORA.limits.items() if name not in ("r", "init_lora_weights")},
        "init_r": Limit(low=2),
        "target_r": Limit(low=1),
        "deltaT": Limit(low=1),
        "tinit": Limit(low=0),
        "tfinal": Limit(low=0),
        "beta1": Limit(low=0, high=1, open_low=True),
        "beta2": Limit(low=0, high=1, open_low=True),
        "orth_reg_weight": Limit(low=0),
    },
    count=count,
    check=check,
    sources={
        "init_r": Default(value=24, source="Zhang et al. 2023, section 4: 1.5 times the target"),
        "target_r": Default(value=16, source="LoRA's r"),
        "lora_alpha": Default(value=32, source="as LoRA's"),
        "deltaT": Default(value=10, source="the paper: 100, in runs of many thousand steps"),
        "orth_reg_weight": Default(value=0.1, source="Zhang et al. 2023, appendix C: 0.1"),
    },
    rate_factor=Default(
        value=1,
        source="Zhang et al. 2023, appendix C: the rates of its LoRA baseline, chosen per task",
        measured="benchmarks/adapters.py: LoRA's 0.003",
    ),
    plain_start=lambda settings: False,
    never_in_vllm="TRL would hand over its rank counts as weights of the model",
    never_shards=lambda layout, settings: (
        "it prunes by the gradients of whole matrices after each step, which no process has by then"
    ),
    support="ftcli.worker.tuners.adalora:AdaLora",
)

METHODS = (ADALORA,)
