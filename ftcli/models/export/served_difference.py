"""How far a model as it is served is from the one that was trained, and what of that is good.

Both are given the same rows. The divergence is the mean, over the tokens that are compared, of the Kullback-Leibler
divergence of the served model's distribution of the next token from the trained one's, in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GOOD, FAIR = 0.01, 0.1
"""Nats a token, estimates: rounding to 16 or 8 bits usually stays below the first, to 4 bits below the second."""
SAME_ORDER = 1e-3
"""Difference of two scores of a reward model below which it is called good."""


@dataclass(frozen=True)
class Difference:
    """What was measured on the rows of one model."""

    rows: int
    tokens: int
    """How many predictions were compared; of a reward model, how many scores."""
    divergence: float | None
    """None for a reward model, which predicts no token."""
    same_next: float | None
    """The share of tokens before which both find the same next token likeliest; None for a reward model."""
    largest: float
    """Of a logit, or of a score."""

    @property
    def verdict(self) -> str:
        """good, fair or poor."""
        if self.divergence is None:
            return "good" if self.largest <= SAME_ORDER else "fair"
        return "good" if self.divergence <= GOOD else "fair" if self.divergence <= FAIR else "poor"

    def as_json(self) -> dict[str, Any]:
        """The measure as a worker answers it."""
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "divergence": self.divergence,
            "same_next": self.same_next,
            "largest_difference": self.largest,
            "verdict": self.verdict,
        }


MEANING: Mapping[str, str] = {
    "good": f"good: up to {GOOD} nats a token answers differ no more than by rounding",
    "fair": f"fair: between {GOOD} and {FAIR} nats a token, about what 4 bits do; a few answers will differ",
    "poor": f"poor: above {FAIR} nats a token; it answers otherwise than what was trained",
}
"""What is printed of each verdict."""
