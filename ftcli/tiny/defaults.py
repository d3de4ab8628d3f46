"""What the built-in model needs in place of the usual settings, so that it learns its small world in minutes.

None of it belongs to a method: whoever trains a model of their own never meets a value of this page, and what is typed
wins over each of them. Stages are keyed by pipeline and name; stages of a later round (`sample_2`) have the settings of
the first. A key with a role (`ppo judge`) holds where that role gives the stage's rewards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ftcli.tiny.facts import POLITE_PATTERN

Settings = Mapping[str, Any]

REWARDS: Settings = {"exact_answer": 1.0}
"""Rewards of the prompts that have one right answer each."""
REWARDED_SETS = ("builtin:tiny", "builtin:prompts")
"""The built-in sets whose prompts have one."""
MEASURES: Settings = {"polite": {"regex": {"pattern": POLITE_PATTERN}}, "right": {"holds_answer": 1.0}}
"""What the policies of a pipeline that learns manners are measured by."""
MEASURED_PIPELINES = ("constitutional", "online_dpo", "rlaif")

LARGEST_PARAMETERS = 10_000_000
"""A model of at most so many parameters is the built-in one, or another toy: no published one is as small."""
LEARNING_RATES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("pretrain", "sft", "instruct"), (1e-3, 3e-3)),
    **dict.fromkeys(("dpo", "ipo", "kto", "orpo", "cpo", "simpo", "distillation"), (3e-4, 3e-3)),
    "reward": (2e-4, 2e-3),
    **dict.fromkeys(("ppo", "grpo", "rloo"), (1e-4, 1e-3)),
}
"""Rates of full fine-tuning and of LoRA by method: far higher than those of a real model."""
OTHER_RATES = (3e-4, 3e-3)
"""Those of a method that is not listed."""
ROWS_OF_A_PASS = 8
"""Rows of a pass, each of which is a step: it has few rows, and needs as many steps as a large model does."""
TRAINING: Settings = {"num_train_epochs": 3, "lr_scheduler_type": "cosine", "warmup_steps": 0.03}
"""Fields of TrainingArguments, for every method: its rows are so few that it has to see them often."""
_FIRST_ROUND_ONLY = ("make.labelled",)


def _training(learning_rate: float, epochs: int, batch_size: int) -> dict[str, Any]:
    return {
        "train.learning_rate": learning_rate,
        "train.num_train_epochs": epochs,
        "train.per_device_train_batch_size": batch_size,
    }


_ANSWERS = {"make.max_new_tokens": 32}
_ROLLOUTS = {"method.max_new_tokens": 32}
_BY_PRINCIPLES = {"method.judge_constitution": "builtin:principles"}
_HELD_OUT_PAIRS = {"data.eval_path": "builtin:preferences"}
_ASSISTANT = {"data.path": "builtin:instructions", **_training(2e-3, 4, 8)}
_MIXED_MANNERS = {"data.path": "builtin:manners", **_training(1e-3, 2, 8)}


def _feedback(prompts: str, least_margin: float) -> dict[str, Settings]:
    """The stages from a judge's preferences on."""
    judge = {"make.mode": "score", "make.constitution": "builtin:principles", "make.least_margin": least_margin}
    ppo = {"data.path": prompts, **_training(1e-4, 1, 32), **_ROLLOUTS, "method.kl_coef": 0.1}
    return {
        "assistant": _ASSISTANT,
        "judge": {**judge, "make.labelled": "builtin:preferences"},
        "dpo": {**_HELD_OUT_PAIRS, **_training(1e-4, 1, 16)},
        "reward": {**_HELD_OUT_PAIRS, **_training(2e-4, 2, 16)},
        "ppo": ppo,
        "ppo judge": {**ppo, **_BY_PRINCIPLES},
    }


_SAMPLE = {"data.path": "builtin:prompts", "make.n": 3, **_ANSWERS}
# The built-in model reads no long conversations: examples before a question would only confuse it.
_CRITIQUE = {
    "make.constitution": "builtin:principles",
    "make.examples": None,
    "make.rounds": 1,
    "make.temperature": 0.0,
}

STAGES: Mapping[str, Mapping[str, Settings]] = {
    "rlhf": {
        "sft": {"data.path": "builtin:manners", **_training(1e-3, 3, 4)},
        "reward": {
            # A third of the pairs teaches that running text answers nothing.
            "data.mix": {"manners": {"path": "builtin:preferences"}, "sense": {"path": "builtin:sense"}},
            **_HELD_OUT_PAIRS,
            **_training(2e-4, 2, 16),
        },
        "ppo": {**_training(1e-4, 2, 32), **_ROLLOUTS, "method.kl_coef": 0.2},
    },
    "rlaif": {**_feedback("builtin:prompts", 0.2), "sft": _MIXED_MANNERS, "sample": _SAMPLE},
    "online_dpo": {
        **_feedback("builtin:prompts", 0.2),
        "sft": _MIXED_MANNERS,
        "sample": {**_SAMPLE, "data.max_rows": 250},
    },
    "constitutional": {
        **_feedback("builtin:redteam", 0.1),
        "helpful": _MIXED_MANNERS,
        "answers": {"data.path": "builtin:redteam", "make.n": 1, **_ANSWERS},
        "revisions": {**_CRITIQUE, "make.max_new_tokens": 40},
        "revised": _training(3e-4, 2, 8),
        "sample": {"data.path": "builtin:redteam", "make.n": 4, "make.temperature": 1.3, **_ANSWERS},
    },
}


def stage_settings(pipeline: str, stage: str, role: str = "") -> dict[str, Any]:
    """What a stage of a pipeline needs with the built-in model, as `group.key`; nothing where the usual will do."""
    name, _, number = stage.partition("_") if re.search(r"_\d+$", stage) else (stage, "", "")
    stages = STAGES.get(pipeline, {})
    settings = stages.get(f"{name} {role}", stages.get(name, {}))
    return {key: value for key, value in settings.items() if not number or key not in _FIRST_ROUND_ONLY}


def measures(pipeline: str) -> Settings:
    """Rewards by which the policies of a pipeline are measured in the built-in world; none where it has its own."""
    return MEASURES if pipeline in MEASURED_PIPELINES else {}
