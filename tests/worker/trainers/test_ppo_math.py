"""PPO's arithmetic on tensors worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ftcli.worker.trainers.rl.ppo_math import (
    Moments,
    adapted_kl_coef,
    advantages_and_returns,
    explained_variance,
    kl_estimate,
    masked_mean,
    policy_losses,
    token_rewards,
    value_losses,
    whiten,
)


def t(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


MASK = t([1, 1, 1], [1, 0, 0])


def close(found: torch.Tensor, *rows: object) -> None:
    torch.testing.assert_close(found, t(*rows), atol=1e-6, rtol=0)


def test_a_mean_is_over_tokens_that_are_there():
    assert masked_mean(t([1, 2, 3], [10, 99, 99]), MASK).item() == pytest.approx(16 / 4)
    assert masked_mean(t([1, 2, 3]), torch.zeros(1, 3)).item() == 0


def test_k1_is_the_difference_and_k3_is_never_negative():
    ours, theirs = t([math.log(0.5), math.log(0.2)]), t([math.log(0.25), math.log(0.4)])
    close(kl_estimate(ours, theirs, "k1"), [math.log(2), -math.log(2)])
    # r = 1/2: 1/2 - 1 - log(1/2); r = 2: 2 - 1 - log 2
    close(kl_estimate(ours, theirs, "k3"), [-0.5 + math.log(2), 1 - math.log(2)])
    with pytest.raises(ValueError, match="k2 is not an estimator"):
        kl_estimate(ours, theirs, "k2")


def test_both_estimators_have_the_divergence_as_their_mean():
    torch.manual_seed(0)
    policy, reference = torch.randn(5).log_softmax(0), torch.randn(5).log_softmax(0)
    exact = (policy.exp() * (policy - reference)).sum()
    for name in ("k1", "k3"):
        mean = (policy.exp() * kl_estimate(policy, reference, name)).sum()
        assert mean.item() == pytest.approx(exact.item(), abs=1e-6)


def test_a_score_stands_at_the_last_token_and_each_token_pays_for_its_divergence():
    kl = t([0.1, 0.2, 0.3], [0.4, 9, 9])
    # 0.5 a nat: -0.05, -0.1, -0.15 + 2 at the third; -0.2 - 1 at the only one.
    close(token_rewards(torch.tensor([2.0, -1.0]), kl, MASK, 0.5), [-0.05, -0.1, 1.85], [-1.2, 0, 0])
    close(token_rewards(t([1, 0, 1], [5, 7, 7]), kl, MASK, 0.5), [0.95, -0.1, 0.85], [4.8, 0, 0])
    close(token_rewards(torch.tensor([2.0]), t([1, 1]), torch.zeros(1, 2), 0.5), [0, 0])


def test_advantages_are_discounted_sums_of_surprises_within_an_answer():
    rewards, values = t([0, 0, 1], [2, 5, 5]), t([0.5, 0.6, 0.7], [1, 9, 9])
    # gamma 0.9, lambda 0.8. delta: 0.9*0.6 - 0.5 = 0.04; 0.9*0.7 - 0.6 = 0.03; 1 - 0.7 = 0.3
    # A3 = 0.3; A2 = 0.03 + 0.72*0.3 = 0.246; A1 = 0.04 + 0.72*0.246 = 0.21712.  Second: 2 - 1 = 1.
    advantages, returns = advantages_and_returns(rewards, values, MASK, 0.9, 0.8)
    close(advantages, [0.21712, 0.246, 0.3], [1, 0, 0])
    close(returns, [0.71712, 0.846, 1.0], [2, 0, 0])


def test_with_lambda_1_a_return_is_the_sum_of_what_follows():
    rewards = t([1, 2, 3], [4, 9, 9])
    _, returns = advantages_and_returns(rewards, torch.randn(2, 3), MASK, 1.0, 1.0)
    close(returns, [6, 5, 3], [4, 0, 0])


def test_whitened_values_have_unit_variance_over_all_processes():
    values = t([1, 2, 3], [6, 99, 99])
    moments = Moments.of(values, MASK)
    # mean 3, squares 4 + 1 + 0 + 9 = 14, over n - 1 = 3
    assert moments.mean == pytest.approx(3)
    assert moments.variance == pytest.approx(14 / 3)
    scale = (14 / 3) ** -0.5
    close(whiten(values, MASK, moments), [-2 * scale, -scale, 0], [3 * scale, 0, 0])
    kept = whiten(values, MASK, moments, shift_mean=False)
    close(kept, [3 - 2 * scale, 3 - scale, 3], [3 + 3 * scale, 0, 0])
    halves = Moments(Moments.of(values[:1], MASK[:1]).sums + Moments.of(values[1:], MASK[1:]).sums)
    assert halves.variance == pytest.approx(moments.variance)
    assert Moments.of(values, torch.zeros(2, 3)).variance == 0


def test_clip_stops_gain_beyond_epsilon():
    logs = t([math.log(1.5), math.log(0.5), math.log(1.5), math.log(0.5)])
    losses, clipped = policy_losses(logs, torch.zeros(1, 4), t([1, 1, -1, -1]), 0.2)
    # Gain is capped at 1.2; a loss is not: min(0.5, 0.8) = 0.5; min(-1.5, -1.2) = -1.5; min(-0.5, -0.8) = -0.8
    close(losses, [-1.2, -0.5, 1.5, 0.8])
    close(clipped, [1, 0, 0, 1])


def test_values_may_move_by_epsilon_at_a_time():
    # V_old 1, R 2: V 1.5 is clipped to 1.2, and (1.2 - 2)^2 = 0.64 is the worse; V 0 is clipped to 0.8, 4 is the worse.
    losses, clipped = value_losses(t([1.5, 0.0]), t([1, 1]), t([2, 2]), 0.2)
    close(losses, [0.32, 2.0])
    close(clipped, [1, 0])
    close(value_losses(t([1.5]), t([1]), t([2]), None)[0], [0.125])


def test_the_coefficient_follows_the_divergence():
    # KL twice the target: the error is clipped to 0.2, times 64/1000 episodes.
    assert adapted_kl_coef(0.1, 12.0, 6.0, 64, 1000) == pytest.approx(0.1 * (1 + 0.2 * 0.064))
    assert adapted_kl_coef(0.1, 5.4, 6.0, 100, 1000) == pytest.approx(0.1 * (1 - 0.1 * 0.1))
    assert adapted_kl_coef(0.1, -3.0, 6.0, 100, 1000) == pytest.approx(0.1 * (1 - 0.2 * 0.1))


def test_explained_variance_is_one_for_a_prophet_and_zero_for_a_constant():
    returns = t([1, 2, 3], [6, 0, 0])
    assert explained_variance(returns + 5, returns, MASK) == pytest.approx(1)
    assert explained_variance(torch.full((2, 3), 7.0), returns, MASK) == pytest.approx(0)
    assert explained_variance(-returns, returns, MASK) == pytest.approx(-3)
