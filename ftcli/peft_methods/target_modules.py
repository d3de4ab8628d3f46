"""Which modules an adapter's settings select, by PEFT's rules, without importing PEFT."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ftcli.core.untrusted.bounded_pattern import bounded
from ftcli.models.layout import Module
from ftcli.models.modules import modules
from ftcli.models.shape import Shape
from ftcli.peft_methods.routers import is_adapted, routers_of


def listing(shape: Shape) -> str:
    """The modules of the model that can be adapted, for error messages."""
    names = sorted({m.leaf for m in modules(shape) if m.kind in ("linear", "embedding")})
    return f"{shape.architecture} has {', '.join(names)}"


MAX_COMPARISONS = 10_000_000
"""Of entries with the names of modules: a thousand entries with the ten thousand modules of the deepest models."""


def _ends(name: str) -> Iterator[str]:
    """A name, and each end of it that begins after a dot."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name


def ends_with(name: str, targets: Sequence[str]) -> bool:
    """Whether a name is one of the targets or ends in one, at a dot."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def require_comparable(entries: Collection[object], names: Collection[object], setting: str) -> None:
    """Check that a list can be compared with the names of a model's modules in reasonable time.

    Raises:
        ValueError: it has too many entries for that.
    """
    if len(entries) * len(names) > MAX_COMPARISONS:
        raise ValueError(f"{setting} has {len(entries)} entries, too many to compare with {len(names)} modules")


def targeted(
    shape: Shape, target_modules: str | Sequence[str] | None, default: Sequence[str] | None = None
) -> list[Module]:
    """The modules that PEFT selects by `target_modules`.

    Args:
        default: PEFT's own targets for the tuner and the model's type, used where the settings name none.

    Raises:
        ValueError: an entry matches nothing, or matches what LoRA cannot adapt.
    """
    known = modules(shape)
    if target_modules is None:
        own = shape.family.peft_default if shape.family else ()
        target_modules = own if default is None else default
        if not target_modules:
            raise ValueError(f"PEFT has no default for {shape.model_type}; set target_modules, for example all-linear")
    if isinstance(target_modules, str):
        if target_modules.lower() == "all-linear":
            routers = set(routers_of(known))
            return [m for m in known if is_adapted(m) and m not in routers]
        pattern = bounded(target_modules)
        parents = {m.name.rpartition(".")[0] for m in known} - {""}
        if caught := sorted(parent for parent in parents if pattern.fullmatch(parent)):
            raise ValueError(f"{target_modules!r} also matches {caught[0]}, which is not a layer; " + listing(shape))
        found = [m for m in known if pattern.fullmatch(m.name)]
        if not found:
            raise ValueError(f"{target_modules!r} matches no whole module name such as {known[1].name}")
    else:
        reached = {end for m in known for end in _ends(m.name)}
        for target in target_modules:
            if target not in reached:
                raise ValueError(f"{target!r} names no module; " + listing(shape))
        wanted = set(target_modules)
        found = [m for m in known if not wanted.isdisjoint(_ends(m.name))]
    found = [m for m in found if m.kind not in ("parameter", "experts")]
    if wrong := [m.leaf for m in found if m.kind not in ("linear", "embedding")]:
        raise ValueError(f"{wrong[0]} cannot carry an adapter; " + listing(shape))
    return found


def saved_modules(shape: Shape, modules_to_save: Sequence[str]) -> list[Module]:
    """The modules of which PEFT trains a full copy: names *ending* in an entry (even mid-word), with all submodules."""
    known = modules(shape)
    chosen: dict[str, Module] = {}
    above = {".".join(m.name.split(".")[:depth]) for m in known for depth in range(1, m.name.count(".") + 2)}
    require_comparable(modules_to_save, above, "modules_to_save")
    for entry in modules_to_save:
        tops = [name for name in above if name.endswith(entry)]
        if not tops:
            raise ValueError(f"{entry!r} in modules_to_save names no module; " + listing(shape))
        for module in known:
            if any(module.name == top or module.name.startswith(f"{top}.") for top in tops):
                chosen[module.name] = module
    return list(chosen.values())


def is_excluded(name: str, exclude_modules: str | Sequence[str] | None) -> bool:
    """Whether `exclude_modules` excludes the module, by PEFT's rules."""
    if not exclude_modules:
        return False
    if isinstance(exclude_modules, str):
        return bounded(exclude_modules).fullmatch(name) is not None
    return ends_with(name, exclude_modules)


def in_layers(name: str, target_modules: Any, layers: int | Sequence[int] | None) -> bool:
    """Whether `layers_to_transform` keeps the module; PEFT applies it to lists of targets only."""
    if layers is None or isinstance(target_modules, str) or layers == []:
        return True
    match = re.search(r"\.(?:layers|h)\.(\d+)\.", name)
    return match is not None and int(match[1]) in ([layers] if isinstance(layers, int) else layers)


def trained_biases(shape: Shape, bias: str, adapted: Sequence[Module]) -> int:
    """Elements of the base model's biases that `bias` (none, all or lora_only) makes trainable."""
    if bias == "none":
        return 0
    # The biases of stacked experts have another parameter name, which PEFT does not match.
    pool = adapted if bias == "lora_only" else [m for m in modules(shape) if m.kind != "experts"]
    return sum(module.out_features for module in pool if module.bias)
