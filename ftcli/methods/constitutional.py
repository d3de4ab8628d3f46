"""Constitutional AI (Bai et al. 2022, arXiv:2212.08073): a model criticises and revises itself by principles.

First the supervised half: answers to provoking prompts are criticised and revised, and the revisions trained. Then the
half with AI feedback: answers of that model are judged by the principles, and the pairs trained by DPO, or a preference
model on them and the policy by PPO, as in the paper.
"""

from __future__ import annotations

from ftcli.methods import feedback_stages
from ftcli.methods.pipeline import Pipeline, Stage


def arrange(algorithm: str) -> tuple[Stage, ...]:
    """The stages by how the policy learns from the judged pairs."""
    return (
        feedback_stages.assistant("a model that follows instructions: it criticises, revises and judges"),
        feedback_stages.policy("helpful", "a helpful model, harmless or not"),
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
            summary="those answers criticised and revised by principles",
            takes={"rows": "answers", "backend.model": "assistant"},
        ),
        Stage(
            name="revised",
            method="sft",
            summary="a model that answers as the revisions do",
            takes={"model.name_or_path": "helpful", "data.path": "revisions"},
        ),
        feedback_stages.sample("revised"),
        *feedback_stages.learning(algorithm, "revised"),
    )


PIPELINE = Pipeline(
    name="constitutional",
    summary="Constitutional AI: answers criticised and revised by principles, trained, then judged by them.",
    stages=arrange(feedback_stages.DPO),
    arrange=arrange,
    options={"algorithm": feedback_stages.algorithm(feedback_stages.DPO, feedback_stages.PPO)},
    paper="Bai et al. 2022, arXiv:2212.08073",
)
