"""Constitutional AI (Bai et al. 2022, arXiv:2212.08073): a model critiques and revises its answers by principles.

The supervised phase: answers to provoking prompts are critiqued and revised, and a model is fine-tuned on the
revisions. The phase with AI feedback: the principles judge answers of that model, and it learns from the pairs by DPO,
or by PPO with a reward model trained on them, as in the paper.
"""

from __future__ import annotations

from ftcli.methods import feedback_stages
from ftcli.methods.pipeline import Pipeline, Stage


def arrange(algorithm: str) -> tuple[Stage, ...]:
    """The stages, given how the policy learns from the judged pairs."""
    return (
        feedback_stages.assistant("a model that follows instructions; it critiques, revises and judges"),
        feedback_stages.policy("helpful", "a helpful model, not yet harmless"),
        Stage(
            name="answers",
            task="generate",
            role="generator",
            summary="its answers to provoking prompts",
            takes={"backend.model": "helpful"},
        ),
        Stage(
            name="revisions",
            task="revise",
            role="generator",
            summary="those answers, critiqued and revised by principles",
            takes={"rows": "answers", "backend.model": "assistant"},
        ),
        Stage(
            name="revised",
            method="sft",
            summary="a model fine-tuned on the revisions",
            takes={"model.name_or_path": "helpful", "data.path": "revisions"},
        ),
        feedback_stages.sample("revised"),
        *feedback_stages.learning(algorithm, "revised"),
    )


PIPELINE = Pipeline(
    name="constitutional",
    summary="Constitutional AI: fine-tuning on answers revised by principles, then preferences judged by them.",
    stages=arrange(feedback_stages.DPO),
    arrange=arrange,
    options={"algorithm": feedback_stages.algorithm(feedback_stages.DPO, feedback_stages.PPO)},
    paper="Bai et al. 2022, arXiv:2212.08073",
)
