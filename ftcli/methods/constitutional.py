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
    prompts = "builtin:redteam"
    return (
        feedback_stages.assistant("a model that follows instructions: it criticises, revises and judges"),
        feedback_stages.policy("helpful", "a helpful model, harmless or not"),
        Stage(
            name="answers",
            task="generate",
            role="generator",
            summary="its answers to provoking prompts",
            takes={"backend.model": "helpful"},
            tiny={"data.path": prompts, "make.n": 1, "make.max_new_tokens": 32},
        ),
        Stage(
            name="revisions",
            task="revise",
            role="generator",
            summary="those answers criticised and revised by principles",
            takes={"rows": "answers", "backend.model": "assistant"},
            tiny={
                "make.constitution": "builtin:principles",
                "make.rounds": 1,
                "make.temperature": 0.0,
                "make.max_new_tokens": 40,
            },
        ),
        Stage(
            name="revised",
            method="sft",
            summary="a model that answers as the revisions do",
            takes={"model.name_or_path": "helpful", "data.path": "revisions"},
            tiny={
                "train.learning_rate": 3e-4,
                "train.num_train_epochs": 2,
                "train.per_device_train_batch_size": 8,
            },
        ),
        feedback_stages.sample("revised", {"data.path": prompts, "make.n": 4, "make.temperature": 1.3}),
        *feedback_stages.learning(algorithm, "revised", least_margin=0.1, prompts=prompts),
    )


PIPELINE = Pipeline(
    name="constitutional",
    summary="Constitutional AI: answers criticised and revised by principles, trained, then judged by them.",
    stages=arrange(feedback_stages.DPO),
    arrange=arrange,
    options={"algorithm": feedback_stages.algorithm(feedback_stages.DPO, feedback_stages.PPO)},
    tiny_measure=feedback_stages.MEASURE,
    paper="Bai et al. 2022, arXiv:2212.08073",
)
