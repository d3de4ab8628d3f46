"""Counts what LoRA would train, reading its settings as PEFT reads them, without importing PEFT.

Tests hold the counts against the installed PEFT on small random models of every supported architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ftcli.layout import FAMILIES, Module, modules
from ftcli.shapes import Shape


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
    saved = _saved(shape, modules_to_save)
    if _converted_by_peft(shape):
        if use_dora or lora_bias or exclude_modules or layers_to_transform is not None or rank_pattern or saved:
            return None
        adapted = _with_experts(shape, r, target_modules)
    else:
        names = {module.name for module in saved}
        adapted = [
            (module, _rank(module.name, r, rank_pattern))
            for module in _targets(shape, target_modules)
            if module.name not in names
            and not _excluded(module.name, exclude_modules)
            and _in_layers(module.name, target_modules, layers_to_transform)
        ]
        if not adapted:
            raise ValueError("no module is left to adapt; " + _has(shape))
    total = sum(module.num_parameters for module in saved)
    for module, rank in adapted:
        total += module.num_stacked * rank * (module.in_features + module.out_features)
        # DoRA's magnitude has an entry for each output of a linear layer, for each component of an embedding.
        magnitude = module.in_features if module.kind == "embedding" else module.out_features
        total += magnitude * use_dora + module.out_features * lora_bias
    return total + _trained_biases(shape, bias, [module for module, _ in adapted])


def _trained_biases(shape: Shape, bias: str, adapted: Sequence[Module]) -> int:
    """Elements of the base model's biases that `bias` (none, all or lora_only) sets free."""
    if bias == "none":
        return 0
    # The biases of stacked experts are parameters of another name, which PEFT leaves alone.
    pool = adapted if bias == "lora_only" else [m for m in modules(shape) if m.kind != "experts"]
    return sum(module.out_features for module in pool if module.bias)


def _has(shape: Shape) -> str:
    names = sorted({m.leaf for m in modules(shape) if m.kind in ("linear", "embedding")})
    return f"{shape.architecture} has {', '.join(names)}"


def _ends_with(name: str, targets: Sequence[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None


def _targets(shape: Shape, target_modules: str | Sequence[str] | None) -> list[Module]:
    """The modules that `target_modules` means.

    Raises:
        ValueError: an entry matches nothing, or matches what LoRA cannot adapt.
    """
    known = modules(shape)
    if target_modules is None:
        target_modules = FAMILIES[shape.model_type].peft_default
        if not target_modules:
            raise ValueError(f"PEFT has no default for {shape.model_type}; name target_modules, such as all-linear")
    if isinstance(target_modules, str):
        if target_modules.lower() == "all-linear":
            return [m for m in known if m.kind == "linear" and m.name != "lm_head"]
        pattern = _compile(target_modules)
        parents = {m.name.rpartition(".")[0] for m in known} - {""}
        if caught := sorted(parent for parent in parents if pattern.fullmatch(parent)):
            raise ValueError(f"{target_modules!r} also matches {caught[0]}, which is no layer; " + _has(shape))
        found = [m for m in known if pattern.fullmatch(m.name)]
        if not found:
            raise ValueError(f"{target_modules!r} matches no whole module name such as {known[1].name}")
    else:
        for target in target_modules:
            if not any(_ends_with(m.name, [target]) for m in known):
                raise ValueError(f"{target!r} names no module; " + _has(shape))
        found = [m for m in known if _ends_with(m.name, target_modules)]
    found = [m for m in found if m.kind not in ("parameter", "experts")]
    if wrong := [m.leaf for m in found if m.kind not in ("linear", "embedding")]:
        raise ValueError(f"{wrong[0]} cannot carry LoRA; " + _has(shape))
    return found


def _saved(shape: Shape, modules_to_save: Sequence[str]) -> list[Module]:
    """The modules of which PEFT trains a whole copy: names *ending* in an entry (even mid-word), with all below."""
    known = modules(shape)
    chosen: dict[str, Module] = {}
    for entry in modules_to_save:
        above = {".".join(m.name.split(".")[:depth]) for m in known for depth in range(1, m.name.count(".") + 2)}
        tops = [name for name in above if name.endswith(entry)]
        if not tops:
            raise ValueError(f"{entry!r} in modules_to_save names no module; " + _has(shape))
        for module in known:
            if any(module.name == top or module.name.startswith(f"{top}.") for top in tops):
                chosen[module.name] = module
    return list(chosen.values())


def _excluded(name: str, exclude_modules: str | Sequence[str] | None) -> bool:
    if not exclude_modules:
        return False
    if isinstance(exclude_modules, str):
        return _compile(exclude_modules).fullmatch(name) is not None
    return _ends_with(name, exclude_modules)


def _in_layers(name: str, target_modules: Any, layers: int | Sequence[int] | None) -> bool:
    """Whether `layers_to_transform` keeps the module; PEFT asks it of lists of targets only."""
    if layers is None or isinstance(target_modules, str) or layers == []:
        return True
    match = re.match(r"model\.layers\.(\d+)\.", name)
    return match is not None and int(match[1]) in ([layers] if isinstance(layers, int) else layers)


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
            leaves = {m.leaf for m in _targets(shape, target_modules)} | set(old_names)
        else:
            pattern = _compile(target_modules)
            leaves = {m.leaf for m in (*known, *virtual) if pattern.fullmatch(m.name)}
        targets = sorted(leaves)
        if not targets:
            raise ValueError(f"{target_modules!r} matches no whole module name such as {known[1].name}")
    else:
        targets = list(target_modules or ())
    expert = {old for old in old_names for target in targets if _ends_with(target, [old])}
    if len(expert & {"gate_proj", "up_proj"}) == 1:
        raise ValueError("gate_proj and up_proj are one tensor in the experts: target both or neither")
    plain = [target for target in targets if not _ends_with(target, old_names)]
    adapted = [(module, r) for module in _targets(shape, plain)] if plain else []
    for module in known:
        if module.kind == "router" and "gate" in expert:
            adapted.append((module, r))
        elif module.kind == "experts" and module.leaf == "gate_up_proj" and "gate_proj" in expert:
            adapted.append((module, 2 * r))
        elif module.kind == "experts" and module.leaf == "down_proj" and "down_proj" in expert:
            adapted.append((module, r))
    if not adapted:
        raise ValueError("no module is left to adapt; " + _has(shape))
    return adapted
