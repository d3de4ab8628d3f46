"""Counts what LoRA would train, reading its settings as PEFT reads them, without importing PEFT.

Tests hold the counts against the installed PEFT on small random models of every supported architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ftcli.layout import Module, modules
from ftcli.shapes import Shape
from ftcli.targets import compiled, ends_with, in_layers, is_excluded, listing, saved_modules, targeted, trained_biases


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
) -> int | None:
    """Parameters that PEFT's LoRA trains, arguments meant as LoraConfig means them; None when it cannot be known.

    A regular expression must match a whole module name; entries of a list match the last parts of one. Unlike PEFT,
    which passes over a list entry that names nothing, every entry must match.

    Raises:
        ValueError: a target or a module to save is not in the model, or cannot carry LoRA.
    """
    if not shape.known:
        return None
    saved = saved_modules(shape, modules_to_save)
    if _converted_by_peft(shape):
        if use_dora or lora_bias or exclude_modules or layers_to_transform is not None or rank_pattern or saved:
            return None
        adapted = _with_experts(shape, r, target_modules)
    else:
        names = {module.name for module in saved}
        adapted = [
            (module, _rank(module.name, r, rank_pattern))
            for module in targeted(shape, target_modules)
            if module.name not in names
            and not is_excluded(module.name, exclude_modules)
            and in_layers(module.name, target_modules, layers_to_transform)
        ]
        if not adapted:
            raise ValueError("no module is left to adapt; " + listing(shape))
    total = sum(module.num_parameters for module in saved)
    for module, rank in adapted:
        total += module.num_stacked * rank * (module.in_features + module.out_features)
        # DoRA's magnitude has an entry for each output of a linear layer, for each component of an embedding.
        magnitude = module.in_features if module.kind == "embedding" else module.out_features
        total += magnitude * use_dora + module.out_features * lora_bias
    return total + trained_biases(shape, bias, [module for module, _ in adapted])


def _rank(name: str, r: int, rank_pattern: Mapping[str, int] | None) -> int:
    for pattern, rank in (rank_pattern or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return rank
    return r


def _converted_by_peft(shape: Shape) -> bool:
    """Whether PEFT reads targets in the words of transformers 4, where each expert was three linear layers."""
    return shape.experts is not None and shape.model_type.startswith("deepseek")


def _with_experts(shape: Shape, r: int, target_modules: Any) -> list[tuple[Module, int]]:
    """Targets of a DeepSeek mixture as PEFT rewrites them (peft.utils.transformers_weight_conversion).

    gate_proj, up_proj and down_proj come to mean the stacked routed experts and *only* these: shared experts and
    dense layers of the same name are left out. gate and up share one tensor, which gets twice the rank.
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
