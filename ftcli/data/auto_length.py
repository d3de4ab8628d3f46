"""`data.max_length_tokens=auto`: from the quantiles of the rows' lengths and the model's limit, with the reason."""

from __future__ import annotations

from collections.abc import Mapping

_STEP = 64
"""Kernels and allocators work best with multiples; a few tokens more cost nothing."""


def auto_length(quantiles: Mapping[str, int], limit: int | None, block: int | None) -> tuple[int, str]:
    """The maximum row length of a run in tokens, and why.

    Args:
        quantiles: `p99` and `max` of the rows' lengths; {} if unknown.
        limit: tokens that the model has positions for, or None.
        block: length of the blocks that a method splits or packs rows into; None for a method without blocks.
    """
    within = f"the model's {limit}" if limit else "no known model limit"
    if block is not None:
        return min(block, limit or block), f"blocks of {block}, within {within}"
    if not quantiles:
        return limit or 4096, within
    p99, longest = quantiles["p99"], quantiles["max"]
    wanted, held = (longest, "all rows") if longest <= 2 * p99 else (p99, "99 % of the rows")
    rounded = -(-wanted // _STEP) * _STEP
    if limit and rounded > limit:
        return limit, f"the model's limit; {held} would need {wanted}"
    what = f"holds {held} (p99 {p99}, longest {longest})"
    return rounded, f"{what}, within {within}"
