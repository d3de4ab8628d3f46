"""Reinforcement learning from AI feedback (Lee et al. 2023, arXiv:2309.00267): a model's preferences train a policy.

Answers are sampled to prompts, a judge prefers one, and the policy learns from the pairs by DPO. The judge is the
assistant that the policy was begun from, unless `judge=` names another.
"""

from __future__ import annotations

from ftcli.pipeline.base import Pipeline, Stage
from ftcli.tiny.facts import POLITE_PATTERN

PIPELINE = Pipeline(
    name="rlaif",
    summary="Reinforcement learning from AI feedback: answers, a judge's preferences between them, and DPO.",
    stages=(
        Stage(
            name="assistant",
            method="sft",
            summary="a model that follows instructions, to start from and to judge",
            tiny={
                "data.path": "builtin:instructions",
                "train.learning_rate": 2e-3,
                "train.num_train_epochs": 4,
                "train.per_device_train_batch_size": 8,
            },
        ),
        Stage(
            name="sft",
            method="sft",
            summary="a policy that answers as the demonstrations do",
            takes={"model.name_or_path": "assistant"},
            tiny={
                "data.path": "builtin:manners",
                "train.learning_rate": 1e-3,
                "train.num_train_epochs": 2,
                "train.per_device_train_batch_size": 8,
            },
        ),
        Stage(
            name="sample",
            task="generate",
            role="generator",
            summary="answers of the policy to each prompt",
            takes={"backend.model": "sft"},
            tiny={"data.path": "builtin:prompts", "make.n": 3, "make.max_new_tokens": 32},
        ),
        Stage(
            name="judge",
            task="judge",
            role="judge",
            summary="which answer a judge prefers",
            takes={"rows": "sample", "backend.model": "assistant"},
            tiny={
                "make.mode": "score",
                "make.constitution": "builtin:principles",
                "make.least_margin": 0.2,
                "make.labelled": "builtin:preferences",
            },
        ),
        Stage(
            name="dpo",
            method="dpo",
            summary="a policy whose answers the judge prefers",
            takes={"model.name_or_path": "sft", "data.path": "judge"},
            tiny={
                "data.eval_path": "builtin:preferences",
                "train.learning_rate": 1e-4,
                "train.num_train_epochs": 1,
                "train.per_device_train_batch_size": 16,
            },
        ),
    ),
    tiny_measure={"polite": {"regex": {"pattern": POLITE_PATTERN}}, "right": {"holds_answer": 1.0}},
    paper="Lee et al. 2023, arXiv:2309.00267",
)
