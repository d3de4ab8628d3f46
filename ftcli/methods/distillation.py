"""On-policy distillation (Agarwal et al. 2024, arXiv:2306.13649): a student learns from a teacher on its own answers.

The student samples an answer, and at each token the loss is the divergence of its next-token distribution from the
teacher's. Both must share one vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ftcli.core.errors import Problem
from ftcli.methods.method import Method
from ftcli.methods.training_defaults import TrainingDefaults
from ftcli.settings.batch_plan import BatchPlan
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import Default, same_for_all

TRAINING = TrainingDefaults(
    full=same_for_all(Default(value=1e-5, source="a tenth of LoRA's; TRL's example: 2e-5, its trainer: 1e-6")),
    adapter=same_for_all(Default(value=1e-4, source="On-Policy Distillation (tinker-cookbook): 1e-4; TRL: 2e-4")),
    epochs=Default(value=1, source="On-Policy Distillation: prompts are answered once"),
    batch=Default(value=32, source="tinker-cookbook: 32 answers a step for long tasks, 4096 at most"),
    schedule=Default(value="cosine", source="as sft: the teacher's tokens are imitated"),
    warmup=Default(value=0.03, source="as sft"),
)


def check(method: Mapping[str, Any]) -> list[Problem]:
    """A teacher model must be set."""
    if method.get("teacher_model"):
        return []
    return [
        Problem(
            "method.teacher_model", "no teacher model is set", "set method.teacher_model to a larger model or a run"
        )
    ]


def steps_per_epoch(method: Mapping[str, Any], batch: BatchPlan, rows: int) -> int:
    """A step samples answers to a whole batch of prompts; the last one is filled from the start of the epoch."""
    return math.ceil(rows / batch.rows)


METHOD = Method(
    name="distillation",
    summary="On-policy distillation: a small model learns a larger model's next tokens on its own answers.",
    trainer="ftcli.worker.trainers.distillation:DistillTrainer",
    config="ftcli.worker.trainers.distillation:DistillConfig",
    task="prompts",
    kinds=("prompt",),
    roles=("policy", "teacher"),
    score="none",
    training=TRAINING,
    sources={"beta": Default(value=1.0, source="On-Policy Distillation: reverse KL; GKD (arXiv:2306.13649): 0 to 1")},
    loss_over="tokens",
    paper="Agarwal et al. 2024, arXiv:2306.13649",
    below_the_adapter=True,
    limits={
        "beta": Limit(low=0, high=1),
    },
    check=check,
    steps_per_epoch=steps_per_epoch,
)
