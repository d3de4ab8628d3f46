"""Ways in which PEFT combines several LoRA adapters of one base into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WAYS: Mapping[str, str] = {"linear": "cat", "ties": "ties", "dare_linear": "dare_linear", "dare_ties": "dare_ties"}
"""Ours to PEFT's. The sum of updates is PEFT's `cat`, which is exact for adapters of any ranks; what PEFT calls linear
sums the two factors of each update, which also multiplies one adapter's by the other's."""
AVERAGED = ("linear", "dare_linear")
"""Those whose weights are shares unless they are given; TIES averages by itself."""
PRUNING = ("ties", "dare_linear", "dare_ties")
"""Those that drop part of each adapter: TIES the smallest values, DARE any."""
DENSITY = 0.5
"""The share that is kept unless it is given; the papers find 0.2 (TIES, arXiv:2306.01708) to 0.9 (DARE,
arXiv:2311.03099) usable."""


@dataclass(frozen=True)
class Combination:
    """How several adapters become one."""

    how: str
    weights: Sequence[float]
    density: float | None = None

    @property
    def in_peft(self) -> str:
        """PEFT's name of it."""
        return WAYS[self.how]


def combination(how: str, count: int, weights: Sequence[float] = (), density: float | None = None) -> Combination:
    """A combination with what was left open: equal shares, or 1 each where the way averages by itself."""
    open_weight = 1 / count if how in AVERAGED else 1.0
    kept = (DENSITY if density is None else density) if how in PRUNING else None
    return Combination(how, tuple(weights) or (open_weight,) * count, kept)
