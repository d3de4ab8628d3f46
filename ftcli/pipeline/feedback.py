"""What the pipelines of AI feedback share: the assistant that both begin with, the judge, and the last stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.pipeline.base import Stage
from ftcli.tiny.facts import POLITE_PATTERN

MEASURE: Mapping[str, Any] = {"polite": {"regex": {"pattern": POLITE_PATTERN}}, "right": {"holds_answer": 1.0}}
"""By what the policies of the built-in world are measured."""


def assistant(summary: str) -> Stage:
    """A model that follows instructions."""
    return Stage(
        name="assistant",
        method="sft",
        summary=summary,
        tiny={
            "data.path": "builtin:instructions",
            "train.learning_rate": 2e-3,
            "train.num_train_epochs": 4,
            "train.per_device_train_batch_size": 8,
        },
    )


def policy(name: str, summary: str) -> Stage:
    """A policy that is begun as the assistant; in the built-in world one of mixed manners."""
    return Stage(
        name=name,
        method="sft",
        summary=summary,
        takes={"model.name_or_path": "assistant"},
        tiny={
            "data.path": "builtin:manners",
            "train.learning_rate": 1e-3,
            "train.num_train_epochs": 2,
            "train.per_device_train_batch_size": 8,
        },
    )


def judge(summary: str, least_margin: float) -> Stage:
    """The assistant's preferences between the answers of stage `sample`."""
    return Stage(
        name="judge",
        task="judge",
        role="judge",
        summary=summary,
        takes={"rows": "sample", "backend.model": "assistant"},
        tiny={
            "make.mode": "score",
            "make.constitution": "builtin:principles",
            "make.least_margin": least_margin,
            "make.labelled": "builtin:preferences",
        },
    )


def dpo(summary: str, of: str) -> Stage:
    """The policy of stage `of`, trained on what the judge prefers."""
    return Stage(
        name="dpo",
        method="dpo",
        summary=summary,
        takes={"model.name_or_path": of, "data.path": "judge"},
        tiny={
            "data.eval_path": "builtin:preferences",
            "train.learning_rate": 1e-4,
            "train.num_train_epochs": 1,
            "train.per_device_train_batch_size": 16,
        },
    )
