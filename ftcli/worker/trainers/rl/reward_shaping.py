"""Shaping the scores of answers, and distributing them over an answer's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ftcli.worker.trainers.rl.ppo_math import Moments, whiten


class Shaping:
    """Normalises scores, clips them, and penalises answers that do not end, in this order."""

    def __init__(self, settings: Any) -> None:
        """`settings`: has `normalise_rewards`, `reward_clip` and `missing_eos_penalty`."""
        self.settings = settings
        self.seen = torch.zeros(3, dtype=torch.float64)
        """Count, sum and sum of squares of all scores so far."""

    def __call__(self, scores: Tensor, ended: Tensor, summed: Callable[[Tensor], Tensor]) -> Tensor:
        """
        Args:
            scores: of shape (B,).
            ended: of shape (B,), whether the answer closes with an end token.
            summed: sums a tensor over all processes.
        """
        how = self.settings
        if how.normalise_rewards:
            everywhere = torch.ones_like(scores)
            self.seen = self.seen + summed(Moments.of(scores, everywhere).sums)
            scores = whiten(scores, everywhere, Moments(self.seen))
        if how.reward_clip is not None:
            scores = scores.clamp(-how.reward_clip, how.reward_clip)
        if how.missing_eos_penalty is not None:
            scores = scores - how.missing_eos_penalty * (~ended).to(scores.dtype)
        return scores


def spread(prefix_scores: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """The increase of the score at each token, (B, T); the last token gets the rest, so that they sum to the score.

    This is potential-based shaping, which leaves the optimal policy unchanged (Ng, Harada and Russell 1999).

    Args:
        prefix_scores: of the answer up to each token, (B, T).
        scores: of the whole answer, (B,).
    """
    grown = torch.diff(prefix_scores, dim=1, prepend=torch.zeros_like(prefix_scores[:, :1])) * mask
    last = (mask.sum(1) - 1).clamp(min=0).long()[:, None]
    return grown.scatter_add(1, last, scores[:, None] - grown.sum(1, keepdim=True))
