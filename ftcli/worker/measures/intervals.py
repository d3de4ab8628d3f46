"""How sure a measured mean is: 95 % intervals over the rows that were measured.

Shares of hits, ties as half of one, have Wilson's score interval, which stays right where all rows or none are hits;
other means have the
percentile bootstrap. The difference of two models is drawn from the same rows of both (paired), since what makes a row
hard is then in both: it is far surer than the two intervals would let expect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

DRAWS = 2000
"""Of a bootstrap."""
WILSON, BOOTSTRAP, PAIRED = "Wilson", f"bootstrap of {DRAWS} draws", f"paired bootstrap of {DRAWS} draws"
NORMAL = "1.96 standard errors"
_Z = 1.959964
_LARGEST = 700.0
"""A loss whose exponential is still a number."""
_SEED = 20240229
_AT_ONCE = 4_000_000
"""Numbers drawn together: memory is bounded however many rows there are."""

Estimate = dict[str, Any]


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one value a row as {"value", "low", "high", "rows", "interval"}."""
    rows = np.asarray(values, dtype=float)
    mean = float(rows.mean())
    if set(np.unique(rows)) <= {0.0, 0.5, 1.0}:  # ties vary less than hits and misses, so that this is on the safe side
        low, high = _wilson(mean, len(rows))
        return {"value": mean, "low": low, "high": high, "rows": len(rows), "interval": WILSON}
    low, high = _bootstrap(rows)
    return {"value": mean, "low": low, "high": high, "rows": len(rows), "interval": BOOTSTRAP}


def of_error(value: float, error: float, rows: int) -> Estimate:
    """The estimate of a value whose standard error is known."""
    return {
        **{"value": value, "low": value - _Z * error, "high": value + _Z * error},
        **{"rows": rows, "interval": NORMAL},
    }


def difference(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """The mean difference of two models over the same rows, after minus before."""
    rows = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    low, high = _bootstrap(rows)
    return {"value": float(rows.mean()), "low": low, "high": high, "rows": len(rows), "interval": PAIRED}


def difference_of_kinds(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> Estimate:
    """The mean over kinds of the mean difference of their rows, which are drawn within each kind."""
    drawn = [np.asarray(after[kind], dtype=float) - np.asarray(before[kind], dtype=float) for kind in before]
    low, high = np.quantile(np.mean([_means(rows) for rows in drawn], axis=0), (0.025, 0.975))
    value = float(np.mean([rows.mean() for rows in drawn]))
    count = sum(map(len, drawn))
    return {"value": value, "low": float(low), "high": float(high), "rows": count, "interval": PAIRED}


def perplexity(losses: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """The perplexity of rows with these summed losses in nats: every token weighs the same, rows are drawn."""
    drawn = _perplexities(losses, tokens)
    low, high = np.quantile(drawn, (0.025, 0.975))
    value = math.exp(min(sum(losses) / sum(tokens), _LARGEST))
    return {"value": value, "low": float(low), "high": float(high), "rows": len(losses), "interval": BOOTSTRAP}


def perplexity_difference(before: Sequence[float], after: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """That of two models over the same rows, after minus before."""
    low, high = np.quantile(_perplexities(after, tokens) - _perplexities(before, tokens), (0.025, 0.975))
    value = perplexity(after, tokens)["value"] - perplexity(before, tokens)["value"]
    return {"value": value, "low": float(low), "high": float(high), "rows": len(tokens), "interval": PAIRED}


def _perplexities(losses: Sequence[float], tokens: Sequence[int]) -> np.ndarray[Any, Any]:
    """Of as many rows, drawn with replacement; the draws are those of `_means`, so that two models have the same."""
    means = _means(np.asarray(losses)) / _means(np.asarray(tokens, dtype=float))
    return np.asarray(np.exp(np.minimum(means, _LARGEST)))


def _wilson(share: float, rows: int) -> tuple[float, float]:
    """Wilson 1927: the shares that would not reject the observed one."""
    spread = _Z**2 / rows
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / rows + spread / (4 * rows))
    return max(0.0, middle - half), min(1.0, middle + half)


def _bootstrap(rows: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The middle 95 % of the means of as many rows, drawn with replacement."""
    low, high = np.quantile(_means(rows), (0.025, 0.975))
    return float(low), float(high)


def _means(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(_SEED)
    size = max(1, min(DRAWS, _AT_ONCE // len(rows)))
    return np.concatenate(
        [
            rows[generator.integers(0, len(rows), (min(size, DRAWS - start), len(rows)))].mean(axis=1)
            for start in range(0, DRAWS, size)
        ]
    )
