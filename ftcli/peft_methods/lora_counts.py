"""Counts LoRA's parameters, mixtures of experts included, by the rules by which PEFT reads its settings.

Tests compare the counts with the installed PEFT on small random models of every supported architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ftcli.models.modules import Module, modules
from ftcli.models.shape import Shape
from ftcli.peft_methods.parameter_counts import beside, choose, refuse_layers_of_a_pattern, whole_modules
from ftcli.peft_methods.target_modules import compiled, ends_with, listing, targeted


def lora_parameters(
    shape: Shape,
    r: int,
    target_modules: str | Sequence[str] | None,
    *,
    modules_to_save: Sequence[str] = (),
    bias: str = "none",
    use_dora: bool = False,
    lora_bias: bool = False,
    exclude_modules: str | Sequence[str] | None = None,
    layers_to_transform: int | Sequence[int] | None = None,
    rank_pattern: Mapping[str, int] | None = None,
    ensure_weight_tying: bool = False,
) -> int | None:
    """Parameters that PEFT's LoRA trains, with arguments as in LoraConfig; None where the number cannot be known.

    A regular expression must match a whole module name; entries of a list match the last parts of one. Unlike PEFT,
    which ignores a list entry that matches nothing, every entry must match.

    Raises:
        ValueError: a target or a module to save is not in the model, cannot carry LoRA, or settings exclude each other.
    """
    if not shape.known:
        return None
    refuse_layers_of_a_pattern(target_modules, layers_to_transform)
    if use_dora and lora_bias:
        raise ValueError("PEFT's LoRA takes lora_bias or use_dora, not both")
    if _converted_by_peft(shape):
        saved = whole_modules(shape, modules_to_save)
        if use_dora or lora_bias or exclude_modules or layers_to_transform is not None or rank_pattern or saved:
            return None
        adapted = _with_experts(shape, r, target_modules)
    else:
        chosen, saved = choose(
            shape,
            target_modules,
            modules_to_save,
            exclude_modules=exclude_modules,
            layers=layers_to_transform,
            tying=ensure_weight_tying,
        )
        if ensure_weight_tying and shape.tie_word_embeddings and any(m.kind == "embedding" for m in chosen):
            return None  # PEFT ties the head's adapter to the embedding's: not counted here
        adapted = [(module, _rank(module.name, r, rank_pattern)) for module in chosen]
    if lora_bias and (wrong := [module.leaf for module, _ in adapted if module.kind == "embedding"]):
        raise ValueError(f"{wrong[0]} is an embedding, on which PEFT's LoRA takes no lora_bias")
    total = beside(shape, [module for module, _ in adapted], saved, bias)
    for module, rank in adapted:
        total += module.num_stacked * rank * (module.in_features + module.out_features)
        # DoRA's magnitude has an entry for each output of a linear layer, for each component of an embedding.
        magnitude = module.in_features if module.kind == "embedding" else module.out_features
        total += magnitude * use_dora + module.out_features * lora_bias
    return total


def _rank(name: str, r: int, rank_pattern: Mapping[str, int] | None) -> int:
    for pattern, rank in (rank_pattern or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return rank
    return r


def _converted_by_peft(shape: Shape) -> bool:
    """Whether PEFT reads targets by the names of transformers 4, where each expert was three linear layers."""
    return shape.experts is not None and shape.model_type.startswith("deepseek")


def _with_experts(shape: Shape, r: int, target_modules: Any) -> list[tuple[Module, int]]:
    """Targets of a DeepSeek mixture as PEFT rewrites them (peft.utils.transformers_weight_conversion).

    gate_proj, up_proj and down_proj mean the stacked routed experts and *only* these: shared experts and dense layers
    of the same name get no adapter. gate and up share one tensor, which gets twice the rank.
    """
    known = modules(shape)
    old_names = ("gate", "gate_proj", "up_proj", "down_proj")
    if isinstance(target_modules, str):
        virtual = [
            Module(f"{m.name.rpartition('.')[0]}.{leaf}", 1, 1)
            for m in known
            if m.leaf == "gate_up_proj"
            for leaf in ("gate_proj", "up_proj")
        ]
        if target_modules.lower() == "all-linear":
            leaves = {m.leaf for m in targeted(shape, target_modules)} | set(old_names)
        else:
            pattern = compiled(target_modules)
            leaves = {m.leaf for m in (*known, *virtual) if pattern.fullmatch(m.name)}
        targets = sorted(leaves)
        if not targets:
            raise ValueError(f"{target_modules!r} matches no whole module name such as {known[1].name}")
    else:
        targets = list(target_modules or ())
    expert = {old for old in old_names for target in targets if ends_with(target, [old])}
    if len(expert & {"gate_proj", "up_proj"}) == 1:
        raise ValueError("gate_proj and up_proj are one tensor in the experts: target both or neither")
    plain = [target for target in targets if not ends_with(target, old_names)]
    adapted = [(module, r) for module in targeted(shape, plain)] if plain else []
    for module in known:
        if module.kind == "router" and "gate" in expert:
            adapted.append((module, r))
        elif module.kind == "experts" and module.leaf == "gate_up_proj" and "gate_proj" in expert:
            adapted.append((module, 2 * r))
        elif module.kind == "experts" and module.leaf == "down_proj" and "down_proj" in expert:
            adapted.append((module, r))
    if not adapted:
        raise ValueError("no module is left to adapt; " + listing(shape))
    return adapted
