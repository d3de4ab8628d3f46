"""Reinforcement learning from AI feedback (Lee et al. 2023, arXiv:2309.00267): a model's preferences train a policy.

Answers to prompts are sampled, a judge prefers one, and the policy learns from the pairs by DPO, or by PPO with a
reward model (the canonical form); or the judge itself is the reward of PPO (direct RLAIF). The judge is the assistant
that the policy starts from, unless `judge=` names another.
"""

from __future__ import annotations

from ftcli.methods import feedback_stages
from ftcli.methods.pipeline import Pipeline, Stage


def arrange(algorithm: str) -> tuple[Stage, ...]:
    """The stages, given how the policy learns."""
    judge = "to judge" if algorithm != feedback_stages.DIRECT else "to be the reward"
    start = (
        feedback_stages.assistant(f"a model that follows instructions, to start from and {judge}"),
        feedback_stages.policy("sft", "a policy fine-tuned on demonstrations"),
    )
    sampled = (feedback_stages.sample("sft"),)
    learned = feedback_stages.learning(algorithm, "sft")
    return (*start, *(sampled if algorithm != feedback_stages.DIRECT else ()), *learned)


PIPELINE = Pipeline(
    name="rlaif",
    summary="Reinforcement learning from AI feedback: a judge compares sampled answers, and DPO or PPO trains on it.",
    stages=arrange(feedback_stages.DPO),
    arrange=arrange,
    options={"algorithm": feedback_stages.algorithm(feedback_stages.DPO, feedback_stages.PPO, feedback_stages.DIRECT)},
    paper="Lee et al. 2023, arXiv:2309.00267",
)
