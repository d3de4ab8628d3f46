"""Estimates the time of one optimiser step, to compare settings with each other.

A step computes, reads the weights once for each pass, starts a kernel for each operation, and moves what is sharded or
offloaded. The first follows from the FLOPs and the card's rates; of the rest the constants below are estimates. So the
order of settings is worth more than their seconds.
"""

from __future__ import annotations

from typing import NamedTuple

from ftcli.core.gpu_cards import like
from ftcli.core.hardware import Gpu
from ftcli.models.parameters import active_parameters, num_parameters, operations_per_token
from ftcli.models.shape import Shape
from ftcli.plan.activations import Pass
from ftcli.plan.sharded_memory import Sharding

USUAL_UTILISATION = 0.35
"""Share of a card's peak rate that training usually reaches: between a quarter and a half."""

# estimate: rates of a card that the table does not know, of one core of a CPU, and of the ways between processes.
UNKNOWN_TERAFLOPS, _UNKNOWN_BYTES_PER_SECOND = 100.0, 800e9
_CORE_TERAFLOPS, _HOST_BYTES_PER_SECOND = 0.05, 10e9
_BETWEEN_CARDS, _TO_HOST = 25e9, 16e9
# estimate: seconds in which a layer's kernels are started, forward and backward.
_START_SECONDS = 0.8e-3


class Rates(NamedTuple):
    """How fast one process computes and moves bytes."""

    operations: float
    """Floating-point operations a second that training reaches."""
    memory: float
    """Bytes a second from its own memory."""

    @classmethod
    def of(cls, card: Gpu | None, threads: int | None) -> Rates:
        """Those of a card, or without one of so many threads of a CPU."""
        if card is None:
            return cls(operations=(threads or 1) * _CORE_TERAFLOPS * 1e12, memory=_HOST_BYTES_PER_SECOND)
        known = like(card.name)
        teraflops = (known.teraflops if known else 0) or UNKNOWN_TERAFLOPS
        memory = known.gigabytes_per_second * 1e9 if known and known.gigabytes_per_second else _UNKNOWN_BYTES_PER_SECOND
        return cls(operations=USUAL_UTILISATION * teraflops * 1e12, memory=memory)


def step_seconds(
    shape: Shape,
    how: Pass,
    rates: Rates,
    *,
    passes: int,
    mean_length: float,
    trained: int,
    adapter: bool,
    sharding: Sharding,
) -> float:
    """Seconds of one optimiser step of one process.

    Args:
        passes: forward and backward passes whose gradients are added up.
        mean_length: tokens of a row in the mean; rows of a pass are padded to its longest.
        trained: parameters that train.
    """
    total = num_parameters(shape) or 0
    operations = operations_per_token(shape, base_trains=not adapter) or 0
    if how.checkpointing:  # a forward pass is computed twice
        operations += 2 * (active_parameters(shape) or 0)
    # Of n rows of unequal length the longest is expected between the mean and the longest of all.
    padded = mean_length + (how.length - mean_length) * (1 - 1 / how.rows)
    computing = operations * how.rows * padded / rates.operations
    reading = (3 if how.checkpointing else 2) * total * how.compute_bytes / rates.memory
    starting = shape.num_hidden_layers * _START_SECONDS * (4 / 3 if how.checkpointing else 1)
    each = max(computing + reading, starting)
    moved, weights = 0.0, total * how.compute_bytes
    if sharding.processes > 1:
        if (
            sharding.shards_weights
        ):  # gathered forward and backward, and gradients sharded where they are not kept whole
            reductions = 1 if sharding.whole_gradients else passes
            moved += (2 * passes * weights + reductions * trained * how.compute_bytes) / _BETWEEN_CARDS
        else:
            moved += 2 * trained * how.compute_bytes / _BETWEEN_CARDS
    if sharding.offloads_weights:
        moved += (2 * passes * weights + 16 * trained) / sharding.processes / _TO_HOST
    return passes * each + moved
