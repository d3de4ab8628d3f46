"""The arithmetic of proximal policy optimisation, as pure functions of tensors.

Schulman et al. 2017, arXiv:1707.06347, in the form that Stiennon et al. 2020 (arXiv:2009.01325) and Ziegler et al. 2019
(arXiv:1909.08593) gave it for language models: an action is a token, and the reward of an answer is its score at the
last token, minus a penalty per token for how far the policy has moved from the reference there.

Tensors are of shape (B, T): B answers, padded on the right to T tokens; `mask` is 1 where an answer has a token. Values
after an answer's end never reach a result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values where the mask is 1, a scalar; 0 if the mask is empty."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def kl_estimate(logps: Tensor, ref_logps: Tensor, estimator: str = "k1") -> Tensor:
    """Each token's estimate of KL(policy ‖ reference) in nats, the token being drawn from the policy.

    k1 is log π − log π_ref, unbiased and of either sign; k3 is r − 1 − log r with r = π_ref/π, unbiased as well, never
    negative and of less variance (Schulman 2020, "Approximating KL divergence").

    Raises:
        ValueError: an unknown estimator.
    """
    difference = logps - ref_logps
    if estimator == "k1":
        return difference
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"{estimator} is not an estimator of the KL divergence; use k1 or k3")


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """The reward of each token, (B, T): −kl_coef·KL, plus the score where it is given.

    Args:
        scores: of shape (B,), given at the last token of each answer; or of shape (B, T), a part at each token.
    """
    rewards = -kl_coef * kl * mask
    if scores.dim() == 2:
        return rewards + scores * mask
    last = (mask.sum(1) - 1).clamp(min=0).long()
    return rewards.scatter_add(1, last[:, None], (scores * (mask.sum(1) > 0))[:, None])


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, equation 16), and the value targets.

    Âₜ = δₜ + γλ Âₜ₊₁ with δₜ = rₜ + γV(sₜ₊₁) − V(sₜ), both 0 after the last token of an answer; returns are Â + V. Both
    results are of shape (B, T).

    Args:
        values: V of the state before each token is chosen, (B, T).
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    for step in reversed(range(rewards.size(1))):
        here = mask[:, step].to(rewards.dtype)
        ahead = values[:, step + 1] * mask[:, step + 1] if step + 1 < rewards.size(1) else torch.zeros_like(following)
        delta = rewards[:, step] + gamma * ahead - values[:, step]
        following = (delta + gamma * lam * following) * here
        advantages[:, step] = following
    return advantages, (advantages + values) * mask


@dataclass(frozen=True)
class Moments:
    """Count, sum and sum of squares of masked values, so that processes can sum theirs. float64: the sums are long."""

    sums: Tensor
    """Shape (3,)."""

    @classmethod
    def of(cls, values: Tensor, mask: Tensor) -> Moments:
        """The moments of the values where the mask is 1."""
        kept = values.double() * mask
        return cls(torch.stack([mask.double().sum(), kept.sum(), (kept * kept).sum()]))

    @property
    def mean(self) -> float:
        """The mean; 0 of no values."""
        return float(self.sums[1] / self.sums[0].clamp(min=1))

    @property
    def variance(self) -> float:
        """The sample variance, divided by n − 1; 0 of fewer than two values."""
        count = self.sums[0]
        return float((self.sums[2] - self.sums[1] ** 2 / count.clamp(min=1)).clamp(min=0) / (count - 1).clamp(min=1))


def whiten(values: Tensor, mask: Tensor, moments: Moments, *, shift_mean: bool = True) -> Tensor:
    """The values with unit variance, and with zero mean unless `shift_mean` is False; 0 where the mask is 0."""
    scaled = (values - moments.mean) * (moments.variance + 1e-8) ** -0.5
    return (scaled if shift_mean else scaled + moments.mean) * mask


def policy_losses(logps: Tensor, old_logps: Tensor, advantages: Tensor, cliprange: float) -> tuple[Tensor, Tensor]:
    """Each token's −min(r·Â, clip(r, 1 ± ε)·Â) (arXiv:1707.06347, equation 7), and whether it was clipped.

    Args:
        old_logps: of the policy that sampled the answers; r is exp(logps − old_logps).
    """
    ratio = torch.exp(logps - old_logps)
    free, clipped = -ratio * advantages, -ratio.clamp(1 - cliprange, 1 + cliprange) * advantages
    return torch.maximum(free, clipped), (clipped > free).to(logps.dtype)


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, cliprange: float | None) -> tuple[Tensor, Tensor]:
    """Each token's ½ max((V − R)², (clip(V, V_old ± ε) − R)²), and whether it was clipped; None clips nothing."""
    free = (values - returns) ** 2
    if cliprange is None:
        return 0.5 * free, torch.zeros_like(free)
    near = (torch.clamp(values, old_values - cliprange, old_values + cliprange) - returns) ** 2
    return 0.5 * torch.maximum(free, near), (near > free).to(values.dtype)


def adapted_kl_coef(coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The KL coefficient after a rollout (Ziegler et al. 2019, section 2.2): a proportional controller in log space.

    Args:
        kl: the mean KL per answer, in nats.
        target: the KL to reach.
        episodes: answers in the rollout.
        horizon: answers over which the coefficient adapts: the larger, the slower.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * episodes / horizon)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """The share of the returns' variance that the values explain: 1 is all, 0 none, negative worse than none."""
    of_returns = Moments.of(returns, mask).variance
    return 1 - Moments.of(returns - values, mask).variance / of_returns if of_returns > 0 else 0.0
