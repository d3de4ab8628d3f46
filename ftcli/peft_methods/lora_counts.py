"""Counts LoRA's parameters, mixtures of experts included, by the rules by which PEFT reads its settings.

Tests compare the counts with the installed PEFT on small random models of every supported architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftcli.core.untrusted.bounded_pattern import bounded
from ftcli.models.layout import Module
from ftcli.models.modules import modules
from ftcli.models.shape import Shape
from ftcli.peft_methods.experts import reach
from ftcli.peft_methods.parameter_counts import beside, choose, refuse_layers_of_a_pattern, whole_modules
from ftcli.peft_methods.target_modules import ends_with, listing, require_comparable, targeted


def lora_parameters(
    shape: Shape,
    r: int,
    target_modules: str | Sequence[str] | None,
    *,
    modules_to_save: Sequence[str] = (),
    bias: str = "none",
    use_dora: bool = False,
    lora_bias: bool = False,
    lora_dropout: float = 0.0,
    init_lora_weights: bool | str = True,
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
    settings = {
        "modules_to_save": modules_to_save,
        "use_dora": use_dora,
        "lora_bias": lora_bias,
        "lora_dropout": lora_dropout,
        "init_lora_weights": init_lora_weights,
        "exclude_modules": exclude_modules,
        "layers_to_transform": layers_to_transform,
        "rank_pattern": rank_pattern,
        "ensure_weight_tying": ensure_weight_tying,
    }
    chosen = _chosen(shape, r, target_modules, settings)
    if chosen is None:
        return None
    adapted, saved = chosen
    if lora_bias and (wrong := [module.leaf for module, _ in adapted if module.kind == "embedding"]):
        raise ValueError(f"{wrong[0]} is an embedding, on which PEFT's LoRA takes no lora_bias")
    total = beside(shape, [module for module, _ in adapted], saved, bias)
    for module, rank in adapted:
        total += module.num_stacked * rank * (module.in_features + module.out_features)
        # DoRA's magnitude has an entry for each output of a linear layer, for each component of an embedding.
        magnitude = module.in_features if module.kind == "embedding" else module.out_features
        total += magnitude * use_dora + module.out_features * lora_bias
    return total


def _chosen(
    shape: Shape, r: int, target_modules: str | Sequence[str] | None, settings: Mapping[str, Any]
) -> tuple[list[tuple[Module, int]], list[Module]] | None:
    """The adapted modules with their ranks, and those that train in full; None where they cannot be known."""
    entries, ranks = settings["modules_to_save"], settings["rank_pattern"]
    require_comparable(ranks or (), modules(shape), "rank_pattern")
    layers, names = settings["layers_to_transform"], renamed_by_peft(shape)
    reached = reach(
        modules(shape), {**settings, "target_modules": target_modules}, renamed=bool(names), model_type=shape.model_type
    )
    if reached is not None:
        saved, both = whole_modules(shape, entries), (*reached.linear, *reached.parameters)
        if set(saved) & set(both):
            return None
        return [(each, _rank(each.name, r, ranks)) for each in both], saved
    if names and shape.experts is not None:
        saved = whole_modules(shape, entries)
        plain = not any(settings[name] for name in ("use_dora", "lora_bias", "exclude_modules", "rank_pattern"))
        if names == "mixtral" or not plain or layers is not None or saved:
            return None
        return _with_experts(shape, r, target_modules), saved
    tying = settings["ensure_weight_tying"]
    chosen, saved = choose(
        shape, target_modules, entries, exclude_modules=settings["exclude_modules"], layers=layers, tying=tying
    )
    if tying and shape.tie_word_embeddings and any(m.kind == "embedding" for m in chosen):
        return None  # PEFT ties the head's adapter to the embedding's: not counted here
    return [(module, _rank(module.name, r, ranks)) for module in chosen], saved


def adapted_modules(
    shape: Shape, r: int, target_modules: str | Sequence[str] | None, settings: Mapping[str, Any]
) -> list[tuple[Module, int]] | None:
    """The adapted modules with their ranks; None where they cannot be known."""
    read = ("rank_pattern", "layers_to_transform", "use_dora", "lora_bias", "exclude_modules", "ensure_weight_tying")
    unset = {**dict.fromkeys(read), "modules_to_save": ()}
    chosen = _chosen(shape, r, target_modules, unset | {k: v for k, v in settings.items() if v is not None})
    return None if chosen is None else chosen[0]


def _rank(name: str, r: int, rank_pattern: Mapping[str, int] | None) -> int:
    for pattern, rank in (rank_pattern or {}).items():
        if bounded(rf"(.*\.)?({pattern})$").match(name):
            return rank
    return r


def renamed_by_peft(shape: Shape) -> str:
    """The names of transformers 4, where each expert was three linear layers, by which PEFT reads targets: "mixtral",
    "qwen2_moe", or "" for an architecture that it takes as it is."""
    if shape.layout is not None:
        return shape.layout.renamed_by_peft
    return "qwen2_moe" if shape.experts is not None and shape.model_type.startswith("deepseek") else ""


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
        pattern = bounded(target_modules)
        targets = sorted({m.leaf for m in (*known, *virtual) if pattern.fullmatch(m.name)})
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
