"""Shared by the parameter counts of all adapters: which modules are adapted, what else trains, and the sum.

Each family's count is in the file of its declaration. It takes a shape and the run's `peft` settings. It returns None
where the number cannot be known, and raises ValueError, listing the model's modules, where a setting names a module
that the model does not have.

A plan must not import PEFT, so these functions repeat how PEFT reads its settings, oddities included: entries that
match in mid-word, saved copies with their own biases, tied weights. Tests compare every count with PEFT itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftcli.models.layout import Module
from ftcli.models.modules import modules
from ftcli.models.shape import Shape
from ftcli.peft_methods.target_modules import in_layers, is_excluded, listing, saved_modules, targeted, trained_biases
from ftcli.settings.library_fields import value_of

Settings = Mapping[str, Any]

# Settings whose effect on the count is not implemented here: with any of them the count is None.
UNCOUNTED = (
    "target_parameters", "layer_replication", "layers_pattern", "trainable_token_indices",
    "alora_invocation_tokens", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config",
    "megatron_config", "token_dim", "num_transformer_submodules", "num_attention_heads",
)  # fmt: skip


def adapter_parameters(
    shape: Shape,
    settings: Settings,
    size: Callable[[Module], int],
    default: Sequence[str] | None = None,
    kinds: Sequence[str] = ("linear",),
) -> int | None:
    """The total of all adapters, of modules that train in full beside them, and of trainable biases.

    Args:
        size: elements of one module's adapter.
        default: PEFT's targets for this tuner where the settings name none; None for LoRA's.
        kinds: the kinds of modules that the tuner can adapt.
    """
    if is_unknown(shape, settings):
        return None
    adapted, saved = choose(
        shape,
        settings.get("target_modules"),
        settings.get("modules_to_save"),
        exclude_modules=settings.get("exclude_modules"),
        layers=settings.get("layers_to_transform"),
        default=default,
        tying=bool(settings.get("ensure_weight_tying")),
    )
    if wrong := [module.leaf for module in adapted if module.kind not in kinds]:
        raise ValueError(f"{wrong[0]} cannot carry this adapter, only linear layers can; " + listing(shape))
    total = sum(size(module) * module.num_stacked for module in adapted)
    return total + beside(shape, adapted, saved, str(settings.get("bias") or "none"))


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
    """The adapted modules, and those that train in full beside them.

    Args:
        default: as in `targeted`.
        tying: whether tied weights of head and embedding stay tied; one copy trains if either is saved.

    Raises:
        ValueError: an entry matches nothing, cannot be adapted or is only a part of a name; or no module is left.
    """
    entries = modules_to_save or ()
    saved = whole_modules(shape, entries)
    names = {module.name for module in saved}
    # PEFT adapts a target given by its full name regardless of `layers_to_transform`.
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
        what = f"{entry!r} in modules_to_save matches part of a name, and PEFT would also adapt {twice[0]} inside it"
        raise ValueError(f"{what}; write the whole part between dots, or remove it from target_modules")
    if not adapted:
        raise ValueError("no module is left to adapt; " + listing(shape))
    if tying and any(module.tied for module in saved):
        embedding = next(module for module in modules(shape) if module.kind == "embedding")
        saved = list({module.name: module for module in (*saved, embedding) if not module.tied}.values())
    return adapted, saved


def beside(shape: Shape, adapted: Sequence[Module], saved: Sequence[Module], bias: str = "none") -> int:
    """Elements that train beside an adapter: full modules, and biases that `bias` (none, all or …_only) unfreezes."""
    pool = "lora_only" if bias.endswith("_only") else bias
    free = trained_biases(shape, pool, adapted)
    # A saved module trains as a copy, which already includes its bias; PEFT freezes the original.
    twice = trained_biases(shape, "lora_only", [m for m in saved if m.is_module]) if pool == "all" else 0
    return sum(module.num_parameters for module in saved) + free - twice


def refuse_layers_of_a_pattern(target_modules: Any, layers_to_transform: Any) -> None:
    """Refuse `layers_to_transform` where the LoRA family does.

    Raises:
        ValueError: the targets are a pattern or all-linear, not a list.
    """
    if isinstance(target_modules, str) and layers_to_transform is not None:
        raise ValueError(f"layers_to_transform needs target_modules as a list, not {target_modules!r}")


def whole_modules(shape: Shape, entries: Sequence[str]) -> list[Module]:
    """The modules that train in full; bare parameters (experts, sinks) only together with the module above them."""
    found: dict[str, Module] = {}
    for entry in entries:
        part = [m for m in saved_modules(shape, [entry]) if m.is_module or _is_below(m.name, entry)]
        if not part:
            raise ValueError(f"{entry!r} in modules_to_save names a parameter, not a module; " + listing(shape))
        found.update({module.name: module for module in part})
    return list(found.values())


def _is_held(name: str, entries: Sequence[str]) -> bool:
    """Whether an entry names the module or one that contains it; PEFT matches whole parts of the name here."""
    return any(re.search(rf"(^|\.){re.escape(entry)}($|\.)", name) for entry in entries)


def _is_below(name: str, entry: str) -> bool:
    """Whether a module above the parameter `name` ends in the entry."""
    parts = name.split(".")[:-1]
    return any(".".join(parts[:depth]).endswith(entry) for depth in range(1, len(parts) + 1))


def with_saved(shape: Shape, settings: Settings, vectors: int) -> int | None:
    """The number of elements of the vectors and of the modules that train in full beside them."""
    entries = settings.get("modules_to_save")
    if has_uncounted(settings) or (entries and not shape.known):
        return None
    return vectors + (beside(shape, (), whole_modules(shape, entries)) if entries else 0)


def linear(inputs: int, outputs: int) -> int:
    """Elements of a linear layer with its bias."""
    return inputs * outputs + outputs


def whole_number(settings: Settings, name: str, default: int | str) -> int:
    """An integer of the settings; the default where it is not set or null.

    Args:
        default: a number, or the config class `module:Class` whose own default holds.
    """
    if isinstance(default, str):
        return int(value_of(default, settings, name))
    value = settings.get(name)
    return default if value is None else int(value)


def has_uncounted(settings: Settings) -> bool:
    """Whether a setting is used whose effect on the count is not implemented here."""
    return any(settings.get(name) for name in UNCOUNTED)


def is_unknown(shape: Shape, settings: Settings) -> bool:
    """Whether the count of this model under these settings cannot be known."""
    # PEFT's own targets are listed here for the families of the table only.
    by_default = shape.family is None and settings.get("target_modules") is None
    return not shape.known or by_default or has_uncounted(settings)
