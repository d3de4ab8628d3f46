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


def active_parameters(shape: Shape) -> int | None:
    """The parameters that one token is multiplied with: of a mixture of experts those that it visits, and no embedding
    that only looks a row up. None where the parameters are unknown."""
    total = num_parameters(shape)
    if total is None:
        return None
    looked_up = 0 if shape.tie_word_embeddings else shape.vocab_size * shape.hidden_size
    return total - looked_up - _unvisited(shape)


def _unvisited(shape: Shape) -> int:
    """Parameters of the routed experts that a token does not visit."""
    experts = shape.experts
    if experts is None:
        return 0
    visits, of = experts.num_experts_per_tok, experts.num_experts
    if shape.known:
        routed = sum(module.num_own_parameters for module in modules(shape) if module.kind == "experts")
    else:  # each a gated feed-forward
        layers = shape.num_hidden_layers - experts.first_k_dense_replace
        routed = layers * of * 3 * shape.hidden_size * experts.intermediate_size
    return routed * (of - visits) // of


def operations_per_token(shape: Shape, *, base_trains: bool) -> int | None:
    """Floating-point operations of training on one token; None where the parameters are unknown.

    Per parameter: 2 forward, 2 for the gradient of the activations, and 2 for that of weights that train. What
    attention adds with the length, and a checkpointed forward pass, are left out.
    """
    active = active_parameters(shape)
    return None if active is None else active * (6 if base_trains else 4)


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
