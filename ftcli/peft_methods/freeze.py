"""Partial fine-tuning: the top layers or named modules train, the rest is frozen.

No adapter: the result is a whole model. Which layers to unfreeze is an old question of transfer learning
(Yosinski et al. 2014, arXiv:1411.1792); Lee et al. 2019 (arXiv:1911.03090) found a quarter of them enough for BERT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftcli.core.errors import Problem
from ftcli.models.layout import Module
from ftcli.models.modules import modules
from ftcli.models.shape import Shape
from ftcli.peft_methods.parameter_counts import Settings, whole_number
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.peft_methods.target_modules import ends_with, listing
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import Default

CONFIG = "ftcli.peft_methods.freeze:FreezeSettings"


@dataclass(frozen=True, kw_only=True)
class FreezeSettings:
    """Which parameters of the model itself train."""

    num_layers: int = 2
    """Number of top decoder layers that train; 0: only `modules` train."""
    modules: list[str] | None = None
    """Further modules that train, by full name or its last parts: [embed_tokens, lm_head]."""


def check(settings: Mapping[str, Any]) -> list[Problem]:
    """Something must train."""
    if whole_number(settings, "num_layers", CONFIG) or settings.get("modules"):
        return []
    return [Problem("peft.num_layers", "peft.num_layers=0 without peft.modules trains nothing", "set peft.modules")]


def count(shape: Shape, settings: Settings) -> int | None:
    """All parameters of the top layers and of the modules that are named; weights that are shared count once."""
    if not shape.known:
        return None
    named, known = settings.get("modules") or (), modules(shape)
    for entry in named:
        if not any(_within(module, [entry]) for module in known):
            raise ValueError(f"{entry!r} in modules names no module; " + listing(shape))
    top, layers = whole_number(settings, "num_layers", CONFIG), shape.num_hidden_layers
    if top > layers:
        raise ValueError(f"num_layers={top} is more than the {layers} layers that the model has")
    first = layers - top
    chosen = [module for module in known if _layer_of(module) >= first or _within(module, named)]
    total = sum(module.num_own_parameters for module in chosen)
    # A tied head has no weight of its own: naming it trains the embedding's.
    embedding = next((module for module in known if module.kind == "embedding"), None)
    if embedding is None or embedding in chosen or not any(module.tied for module in chosen):
        return total
    return total + embedding.num_parameters


def _layer_of(module: Module) -> int:
    """The index of the module's decoder layer; -1 outside the layers."""
    return next((int(part) for part in module.name.split(".") if part.isdecimal()), -1)


def _within(module: Module, entries: Sequence[str]) -> bool:
    """Whether an entry names the module or a module that contains it."""
    parts = module.name.split(".")
    depths = range(1, len(parts) + module.is_module)
    return any(ends_with(".".join(parts[:depth]), entries) for depth in depths)


METHODS = (
    PeftMethod(
        name="freeze",
        kind="",
        summary="Trains the top layers or named modules of the model itself; the rest stays frozen.",
        paper="Lee et al. 2019, arXiv:1911.03090",
        config=CONFIG,
        adapter=False,
        defaults={"num_layers": FreezeSettings.num_layers},
        limits={"num_layers": Limit(low=0)},
        count=count,
        check=check,
        rate_factor=Default(
            value=1,
            source="the weights themselves train, as in full fine-tuning",
            measured="benchmarks/adapters.py: 0.002, twice full fine-tuning's",
        ),
        quantisations=("none",),
        plain_start=lambda settings: True,
        never_merges="it trains the model itself, so there is nothing to merge",
        support="ftcli.worker.tuners.freeze:Freeze",
    ),
)
