"""Reinforcement learning from AI feedback (Lee et al. 2023, arXiv:2309.00267): a model's preferences train a policy.

Answers are sampled to prompts, a judge prefers one, and the policy learns from the pairs by DPO, or by PPO through a
reward model (the canonical form), or the judge is itself the reward of PPO (direct RLAIF). The judge is
the assistant that the policy was begun from, unless `judge=` names another.
"""

from __future__ import annotations

from ftcli.methods import feedback_stages
from ftcli.methods.pipeline import Pipeline, Stage


def arrange(algorithm: str) -> tuple[Stage, ...]:
    """The stages by how the policy learns."""
    judge = "to judge" if algorithm != feedback_stages.DIRECT else "to be the reward"
    begun = (
        feedback_stages.assistant(f"a model that follows instructions, to start from and {judge}"),
        feedback_stages.policy("sft", "a policy that answers as the demonstrations do"),
    )
    sampled = (feedback_stages.sample("sft"),)
    learned = feedback_stages.learning(algorithm, "sft")
    return (*begun, *(sampled if algorithm != feedback_stages.DIRECT else ()), *learned)


PIPELINE = Pipeline(
    name="rlaif",
    summary="Reinforcement learning from AI feedback: answers, a judge's preferences between them, and DPO or PPO.",
    stages=arrange(feedback_stages.DPO),
    arrange=arrange,
    options={"algorithm": feedback_stages.algorithm(feedback_stages.DPO, feedback_stages.PPO, feedback_stages.DIRECT)},
    paper="Lee et al. 2023, arXiv:2309.00267",
)
