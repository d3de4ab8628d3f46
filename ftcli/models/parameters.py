"""Parameters of a model, counted from its modules without loading it."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from ftcli.models.modules import modules
from ftcli.models.shape import Shape


class LinearModules(NamedTuple):
    """Linear layers of one name and size, all layers together."""

    name: str
    in_features: int
    out_features: int
    num_layers: int


def num_parameters(shape: Shape) -> int | None:
    """Parameters of the causal language model, shared ones once; None when neither counted nor published."""
    if not shape.known:
        return shape.num_parameters
    return sum(module.num_own_parameters for module in modules(shape))


def linear_modules(shape: Shape) -> tuple[LinearModules, ...] | None:
    """Linear layers by last name and size, without the output head; None for an unknown architecture."""
    if not shape.known:
        return None
    linear = [m for m in modules(shape) if m.kind == "linear" and not m.head]
    counts = Counter((m.leaf, m.in_features, m.out_features) for m in linear)
    return tuple(LinearModules(*key, count) for key, count in counts.items())


def all_linear(shape: Shape) -> frozenset[str] | None:
    """Last names of the layers that PEFT's target_modules="all-linear" adapts: every nn.Linear but the output head."""
    linear = linear_modules(shape)
    return None if linear is None else frozenset(module.name for module in linear)
