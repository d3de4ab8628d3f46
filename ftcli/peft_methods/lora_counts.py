"""Counts what LoRA would train, reading its settings as PEFT reads them, without importing PEFT.

The choice of modules is the same for PEFT's other tuners, and is shared with ftcli/peft_methods/parameter_counts.py.
Tests hold the counts against the installed PEFT on small random models of every supported architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ftcli.models.modules import Module, modules
from ftcli.models.shape import Shape
from ftcli.peft_methods.target_modules import (
    compiled,
    ends_with,
    in_layers,
    is_excluded,
    listing,
    saved_modules,
    targeted,
    trained_biases,
)


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
    """Parameters that PEFT's LoRA trains, arguments meant as LoraConfig means them; None when it cannot be known.

    A regular expression must match a whole module name; entries of a list match the last parts of one. Unlike PEFT,
    which passes over a list entry that names nothing, every entry must match.

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
            return None  # the head gets an adapter of the same matrices
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


def choose(
    shape: Shape,
    target_modules: str | Sequence[str] | None,
    modules_to_save: Sequence[str] | None = None,
    *,
    exclude_modules: str | Sequence[str] | None = None,
    layers: int | Sequence[int] | None = None,
    default: Sequence[str] | None = None,
    tying: bool = False,
) -> tuple[list[Module], list[Module]]:
    """The modules that carry an adapter, and those that train whole beside them.

    Args:
        default: as `targeted` has it.
        tying: whether a weight that head and embedding share stays one, and trains in one copy if either is saved.

    Raises:
        ValueError: an entry names nothing, names what carries no adapter, saves a part of a name, or nothing is left.
    """
    entries = modules_to_save or ()
    saved = whole_modules(shape, entries)
    names = {module.name for module in saved}
    # A target that is written out in full is adapted in whatever layer it is.
    in_full = () if isinstance(target_modules, str) or layers is None else target_modules or ()
    adapted = [
        module
        for module in targeted(shape, target_modules, default)
        if not is_excluded(module.name, exclude_modules)
        and not _is_held(module.name, entries)
        and (module.name in in_full or in_layers(module.name, target_modules, layers))
    ]
    if twice := [module.name for module in adapted if module.name in names]:
        entry = next(entry for entry in entries if _is_below(f"{twice[0]}.weight", entry))
        what = f"{entry!r} in modules_to_save is a part of a name, and PEFT would still adapt {twice[0]} inside"
        raise ValueError(f"{what}; write it from dot to dot, or leave it out of target_modules")
    if not adapted:
        raise ValueError("no module is left to adapt; " + listing(shape))
    if tying and any(module.tied for module in saved):
        words = next(module for module in modules(shape) if module.kind == "embedding")
        saved = list({module.name: module for module in (*saved, words) if not module.tied}.values())
    return adapted, saved


def _is_held(name: str, entries: Sequence[str]) -> bool:
    """Whether an entry names the module or one that holds it, as PEFT asks it here: by whole parts of the name."""
    return any(re.search(rf"(^|\.){re.escape(entry)}($|\.)", name) for entry in entries)


def beside(shape: Shape, adapted: Sequence[Module], saved: Sequence[Module], bias: str = "none") -> int:
    """Elements that train beside an adapter: whole modules, and biases that `bias` (none, all or …_only) sets free."""
    pool = "lora_only" if bias.endswith("_only") else bias
    free = trained_biases(shape, pool, adapted)
    # A saved module trains in a copy, which has its bias already; PEFT freezes what it was copied from.
    twice = trained_biases(shape, "lora_only", [m for m in saved if m.is_module]) if pool == "all" else 0
    return sum(module.num_parameters for module in saved) + free - twice


def refuse_layers_of_a_pattern(target_modules: Any, layers_to_transform: Any) -> None:
    """Refuse what the LoRA family refuses.

    Raises:
        ValueError: `layers_to_transform` beside targets that are a pattern, or the word all-linear.
    """
    if isinstance(target_modules, str) and layers_to_transform is not None:
        raise ValueError(f"layers_to_transform needs target_modules as a list, not {target_modules!r}")


def whole_modules(shape: Shape, entries: Sequence[str]) -> list[Module]:
    """The modules that train whole; parameters that are no modules (experts, sinks) only with the one above them."""
    found: dict[str, Module] = {}
    for entry in entries:
        part = [m for m in saved_modules(shape, [entry]) if m.is_module or _is_below(m.name, entry)]
        if not part:
            raise ValueError(f"{entry!r} in modules_to_save names a parameter and no module; " + listing(shape))
        found.update({module.name: module for module in part})
    return list(found.values())


def _is_below(name: str, entry: str) -> bool:
    """Whether a module above the parameter `name` ends in the entry."""
    parts = name.split(".")[:-1]
    return any(".".join(parts[:depth]).endswith(entry) for depth in range(1, len(parts) + 1))


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
