"""PPO's settings beyond TrainingArguments, each documented where it is declared."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import TrainingArguments

from ftcli.worker.trainers.rl.generation import GenerationFields
from ftcli.worker.trainers.rl.rollouts import RewardFields


@dataclass
class PpoConfig(RewardFields, GenerationFields, TrainingArguments):  # type: ignore[misc]
    """Fields of PPO beyond TrainingArguments."""

    value_model: str = "head"
    """Where values come from: head (on the policy), reward_model (a separate network initialised from it), or a model
    folder or run."""
    num_ppo_epochs: int = 4
    """Passes over a rollout."""
    num_mini_batches: int = 1
    """Optimiser steps per pass: a rollout is this many times the global batch."""
    max_new_tokens: int = 256
    """Longest answer in tokens."""
    temperature: float = 1.0
    """Temperature of sampling, and of the log-probabilities in the loss."""
    top_p: float = 1.0
    """Probability mass sampled from; below 1 the samples are not exactly the policy's."""
    generation_batch_size: int | None = None
    """Prompts answered at a time on each device; null is the whole rollout."""
    kl_coef: float = 0.05
    """Penalty per nat of KL divergence from the reference."""
    kl_estimator: str = "k1"
    """k1 (log-ratio) or k3 (never negative, less variance)."""
    kl_target: float | None = None
    """Target for the mean KL per answer, in nats, to which kl_coef adapts; null keeps kl_coef fixed."""
    kl_horizon: int = 10_000
    """Answers over which kl_coef adapts."""
    gamma: float = 1.0
    """Discount of later rewards."""
    lam: float = 0.95
    """λ of generalised advantage estimation."""
    cliprange: float = 0.2
    """How far a token's probability ratio may move before its gain is clipped."""
    cliprange_value: float | None = 0.2
    """How far a value may move per rollout; null does not clip."""
    vf_coef: float = 0.1
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus."""
    value_learning_rate: float | None = None
    """Learning rate of the critic; null is ten times the policy's, and at least 1e-5."""
    whiten_rewards: bool = False
    """Scale rewards to unit variance in each rollout."""
    whiten_advantages: bool = True
    """Shift and scale advantages to zero mean and unit variance in each rollout."""
    missing_eos_penalty: float | None = None
    """Subtracted from the score of an answer that does not end."""
    reward_clip: float | None = None
    """Scores are clipped to this magnitude."""
    normalise_rewards: bool = False
    """Normalise scores by their running mean and standard deviation."""
    score_at: str = "last"
    """last gives the score at the last token; each gives every token the increase of the reward model's score."""
    disable_dropout: bool = True
    """Turn dropout off, an adapter's too: with dropout the probability ratio is not 1 before the first update."""
    log_completions_steps: int = 10
    """Write some answers of a rollout to completions.jsonl every this many steps; 0 writes none."""
