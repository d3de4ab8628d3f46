"""IA³ (Liu et al. 2022, arXiv:2205.05638): learned vectors that scale keys, values and inner activations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ftcli.core.untrusted.bounded_pattern import bounded
from ftcli.models.layout import Module
from ftcli.models.shape import Shape
from ftcli.peft_methods.parameter_counts import Settings, adapter_parameters, is_unknown
from ftcli.peft_methods.peft_declaration import Derived, PeftMethod
from ftcli.settings.sourced_defaults import Default

# PEFT's own targets by the model's type (peft/utils/constants.py, 0.21).
# The last entry is the one whose inputs are scaled. For some families PEFT targets queries where the paper has keys.
TARGETS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("llama", "mistral"), ("k_proj", "v_proj", "down_proj")),
    **dict.fromkeys(("qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), ("q_proj", "v_proj", "down_proj")),
    "phi": ("q_proj", "v_proj", "fc2"),
    "gpt2": ("c_attn", "mlp.c_proj"),
    "opt": ("q_proj", "k_proj", "fc2"),
}


def count(shape: Shape, settings: Settings) -> int | None:
    """One vector per module: of its inputs in the feed-forward, of its outputs elsewhere (arXiv:2205.05638, eq. 1)."""
    if is_unknown(shape, settings):
        return None
    default = TARGETS.get(shape.model_type, ())
    inside, targets = settings.get("feedforward_modules"), settings.get("target_modules")
    if inside is None:
        inside = default[-1:]
        if targets is not None and not inside:
            raise ValueError(f"PEFT has no default for {shape.model_type}; set feedforward_modules, or [] for none")
    elif not isinstance(inside, str) and not isinstance(targets, str | None) and set(inside) - set(targets):
        wrong = min(set(inside) - set(targets))
        raise ValueError(f"{wrong!r} in feedforward_modules is not in target_modules; PEFT requires all of them there")
    # PEFT matches these by the end of a name, also in mid-word; targets match whole parts only.
    pattern = bounded(inside) if isinstance(inside, str) else re.compile(rf".*({'|'.join(map(re.escape, inside))})")

    def vector(module: Module) -> int:
        scaled = bool(inside) and pattern.fullmatch(module.name) is not None
        return module.in_features if scaled else module.out_features

    return adapter_parameters(shape, settings, vector, default)


def scaled_modules(shape: Shape) -> tuple[list[str], list[str]] | None:
    """Names whose outputs IA³ scales (keys, values) and names whose inputs (the feed-forward's last layer)."""
    family = shape.family
    if family is None or shape.experts or shape.latent_attention:
        return None
    if family.builder == "gpt2":
        return ["attn.c_attn"], ["mlp.c_proj"]  # queries share one projection with keys and values
    keys = ["qkv_proj"] if family.fused else ["k_proj", "v_proj"]
    return keys, ["down_proj"] if family.builder == "llama" else ["fc2"]


def follows(shape: Shape, settings: Mapping[str, Any]) -> Mapping[str, Derived]:
    """Keys, values and the feed-forward's last layer, under the family's own names."""
    found = scaled_modules(shape)
    if found is None or settings.get("target_modules") is not None:
        return {}
    scaled, inside = found
    return {
        "target_modules": Derived(value=[*scaled, *inside], why=f"keys, values and feed-forward of {shape.model_type}"),
        "feedforward_modules": Derived(value=inside, why="modules whose input is scaled"),
    }


METHODS = (
    PeftMethod(
        name="ia3",
        kind="IA3",
        summary="Scales activations inside the layers: tens of thousands of parameters, for few examples.",
        paper="Liu et al. 2022, arXiv:2205.05638",
        config="peft.tuners.ia3.config:IA3Config",
        follows=follows,
        count=count,
        rate_factor=Default(
            value=15,
            source="T-Few (arXiv:2205.05638, section 3): 3e-3, 15 times 2e-4; PEFT's comparison on MetaMathQA: 5e-3",
            measured="benchmarks/adapters.py: 0.03, ten times LoRA's",
        ),
    ),
)
