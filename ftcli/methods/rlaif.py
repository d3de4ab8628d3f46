"""Reinforcement learning from AI feedback (Lee et al. 2023, arXiv:2309.00267): a model's preferences train a policy.

Answers are sampled to prompts, a judge prefers one, and the policy learns from the pairs by DPO. The judge is the
assistant that the policy was begun from, unless `judge=` names another.
"""

from __future__ import annotations

from ftcli.pipeline import feedback
from ftcli.pipeline.base import Pipeline, Stage

PIPELINE = Pipeline(
    name="rlaif",
    summary="Reinforcement learning from AI feedback: answers, a judge's preferences between them, and DPO.",
    stages=(
        feedback.assistant("a model that follows instructions, to start from and to judge"),
        feedback.policy("sft", "a policy that answers as the demonstrations do"),
        Stage(
            name="sample",
            task="generate",
            role="generator",
            summary="answers of the policy to each prompt",
            takes={"backend.model": "sft"},
            tiny={"data.path": "builtin:prompts", "make.n": 3, "make.max_new_tokens": 32},
        ),
        feedback.judge("which answer a judge prefers", least_margin=0.2),
        feedback.dpo("a policy whose answers the judge prefers", of="sft"),
    ),
    tiny_measure=feedback.MEASURE,
    paper="Lee et al. 2023, arXiv:2309.00267",
)
