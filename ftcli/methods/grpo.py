"""Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300): an answer is compared with its group's mean.

Several answers are sampled per prompt; those above their mean reward become more likely. There is no critic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ftcli.core.errors import Problem
from ftcli.methods.method import Method
from ftcli.methods.ppo import reward_problems
from ftcli.settings.batch_plan import BatchPlan
from ftcli.settings.limits import Limit


def check(method: Mapping[str, Any]) -> list[Problem]:
    """Rules among its own fields."""
    found, clip = reward_problems(method), method.get("reward_clip_range")
    if clip is not None and clip[0] >= clip[1]:
        what = f"method.reward_clip_range={clip} leaves no reward between its ends"
        found.append(Problem("method.reward_clip_range", what, "give the lower end first"))
    return found


def steps_per_epoch(method: Mapping[str, Any], batch: BatchPlan, rows: int) -> int:
    """Optimiser steps of an epoch, with `method` completed by the library's defaults.

    Each generation batch holds `num_generations` answers per prompt and is trained on in `steps_per_generation`
    batches, `num_iterations` times.
    """
    answers = batch.answers_per_generation(method)
    generations = math.ceil(rows / max(1, answers // int(method["num_generations"])))
    passes = generations * (answers // batch.rows_per_pass) * int(method["num_iterations"])
    return max(1, passes // batch.accumulation)


def answers_together(method: Mapping[str, Any], batch: BatchPlan) -> int:
    """A process generates its part of all answers of a generation at once."""
    return batch.answers_per_generation(method) // batch.processes


METHOD = Method(
    name="grpo",
    summary="Group relative policy optimisation: several answers per prompt, each against the group's mean; no critic.",
    trainer="ftcli.worker.trainers.rl.grpo:GrpoTrainer",
    config="ftcli.worker.trainers.rl.grpo:GrpoConfig",
    task="prompts",
    kinds=("prompt",),
    roles=("policy", "reference", "reward"),
    score="mean_reward",
    learning_rates=(1e-6, 1e-5),
    paper="Shao et al. 2024, arXiv:2402.03300",
    min_batch=2,
    limits={
        "num_generations": Limit(low=2),
        "beta": Limit(low=0),
        "num_iterations": Limit(low=1),
        "epsilon": Limit(low=0, open_low=True),
    },
    check=check,
    steps_per_epoch=steps_per_epoch,
    answers_together=answers_together,
)
