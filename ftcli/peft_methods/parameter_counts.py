"""What the counts of all adapters share: which modules carry one, what trains beside it, and the sum.

Each family's count stands with its declaration. It takes a shape and the run's `peft` settings, answers None where the
number cannot be known, and raises ValueError, with what the model has, where the settings name what it has not. They
are read as PEFT reads them, without importing PEFT; tests hold every count against PEFT itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftcli.models.modules import Module, modules
from ftcli.models.shape import Shape
from ftcli.peft_methods.target_modules import in_layers, is_excluded, listing, saved_modules, targeted, trained_biases

Settings = Mapping[str, Any]

# Settings whose effect on the count is not written down here: under any of them the count is None.
UNCOUNTED = (
    "target_parameters", "layer_replication", "layers_pattern", "trainable_token_indices",
    "alora_invocation_tokens", "use_bdlora", "arrow_config", "eva_config", "kasa_config", "monteclora_config",
    "megatron_config", "token_dim", "num_transformer_submodules", "num_attention_heads",
)  # fmt: skip


def adapter_parameters(
    shape: Shape,
    settings: Settings,
    size: Callable[[Module], int],
    default: Sequence[str] | None = None,
    kinds: Sequence[str] = ("linear",),
) -> int | None:
    """The sizes of all adapted modules, with whole modules that train beside them and biases that are set free.

    Args:
        size: elements of one module's adapter.
        default: PEFT's targets for this tuner where the settings name none; None for those of LoRA.
        kinds: the kinds of modules that carry the adapter.
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


def _is_held(name: str, entries: Sequence[str]) -> bool:
    """Whether an entry names the module or one that holds it, as PEFT asks it here: by whole parts of the name."""
    return any(re.search(rf"(^|\.){re.escape(entry)}($|\.)", name) for entry in entries)


def _is_below(name: str, entry: str) -> bool:
    """Whether a module above the parameter `name` ends in the entry."""
    parts = name.split(".")[:-1]
    return any(".".join(parts[:depth]).endswith(entry) for depth in range(1, len(parts) + 1))


def with_saved(shape: Shape, settings: Settings, vectors: int) -> int | None:
    """The vectors and the modules that train whole beside them."""
    entries = settings.get("modules_to_save")
    if has_uncounted(settings) or (entries and not shape.known):
        return None
    return vectors + (beside(shape, (), whole_modules(shape, entries)) if entries else 0)


def linear(inputs: int, outputs: int) -> int:
    """Elements of a linear layer with its bias."""
    return inputs * outputs + outputs


def whole_number(settings: Settings, name: str, default: int) -> int:
    """A whole number of the settings; one that is not set, or null, is the default."""
    value = settings.get(name)
    return default if value is None else int(value)


def has_uncounted(settings: Settings) -> bool:
    """Whether a setting is set whose effect is not written down here."""
    return any(settings.get(name) for name in UNCOUNTED)


def is_unknown(shape: Shape, settings: Settings) -> bool:
    """Whether no count can be known of this model under these settings."""
    return not shape.known or has_uncounted(settings)
