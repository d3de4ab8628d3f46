"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347): the policy learns from its own answers.

In the form of Stiennon et al. 2020, arXiv:2009.01325: a reward at the end of each answer, a KL penalty per token
against the reference, and a critic that estimates the return.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ftcli.core.errors import Problem
from ftcli.methods.method import REWARD_FIELDS, Method
from ftcli.methods.training_defaults import TrainingDefaults
from ftcli.rewards import rules
from ftcli.settings.batch_plan import BatchPlan
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import BySize, Default

_TENFOLD = "ten times full fine-tuning's (LoRA Without Regret)"
TRAINING = TrainingDefaults(
    full=BySize(
        {
            4: Default(value=1e-6, source="verl: 1e-6"),
            20: Default(value=5e-7, source="OpenRLHF 8B: 5e-7; Tulu 3 8B: 3e-7"),
            math.inf: Default(value=1e-7, source="Tulu 3 70B: 1e-7"),
        }
    ),
    adapter=BySize(
        {
            4: Default(value=1e-5, source=_TENFOLD),
            20: Default(value=5e-6, source=_TENFOLD),
            math.inf: Default(value=1e-6, source=_TENFOLD),
        }
    ),
    epochs=Default(value=1, source="InstructGPT, OpenRLHF: prompts are answered once"),
    batch=Default(
        value=64,
        source="InstructGPT (arXiv:2203.02155, appendix C.4): minibatches of 64; rollouts are 64 times "
        "method.num_mini_batches. Tulu 3 8B: 224, OpenRLHF: 128 of 1024",
    ),
    schedule=Default(value="constant_with_warmup", source="verl: constant; InstructGPT, OpenRLHF, Tulu 3: falling"),
    warmup=Default(value=0.03, source="OpenRLHF: 0.03"),
    critic=Default(
        value=10,
        source="verl: a critic at 1e-5 to a policy at 1e-6; OpenRLHF: 9e-6 to 5e-7. It starts from nothing",
        measured="a new head at 1e-6 predicts 0.3 of a return of 3 after 200 steps, at 1e-5 2.3",
    ),
    least_critic=Default(value=1e-5, source="verl: 1e-5, OpenRLHF: 9e-6, however slow the policy"),
)


def reward_problems(method: Mapping[str, Any]) -> list[Problem]:
    """The problems of the reward settings."""
    if not any(method.get(name) for name in REWARD_FIELDS):
        fix = "set method.reward_model=RUN, a rule such as method.rewards.exact_answer=1, a function of yours"
        fix += " ('method.reward_functions={file.py:function: 1}'), or method.judge.model"
        return [Problem("method.rewards", "no reward is configured", fix)]
    return list(rules.problems(method["rewards"])) if method.get("rewards") is not None else []


def check(method: Mapping[str, Any]) -> list[Problem]:
    """Rules among PPO's own fields."""
    found = reward_problems(method)
    for name, value in (("value_model", "reward_model"), ("score_at", "each")):
        if method.get(name) == value and not method.get("reward_model"):
            what = f"method.{name}={value} needs a reward model"
            found.append(Problem(f"method.{name}", what, "set method.reward_model=RUN"))
    return found


def steps_per_epoch(method: Mapping[str, Any], batch: BatchPlan, rows: int) -> int:
    """Optimiser steps of an epoch, with `method` completed by the config class's defaults.

    A rollout of `num_mini_batches` global batches is trained on in `num_ppo_epochs` passes.
    """
    minibatches = int(method["num_mini_batches"])
    rollouts = math.ceil(rows / (batch.rows * minibatches))
    return rollouts * int(method["num_ppo_epochs"]) * minibatches


def answers_together(method: Mapping[str, Any], batch: BatchPlan) -> int:
    """A process generates its part of a rollout at once, or as many answers as `generation_batch_size` allows."""
    rollout = batch.rows * int(method["num_mini_batches"]) // batch.processes
    continuous = method.get("use_transformers_continuous_batching")  # which has a cache for the whole rollout
    return min(rollout, int((not continuous and method.get("generation_batch_size")) or rollout))


METHOD = Method(
    name="ppo",
    summary="Proximal policy optimisation: learns from its own answers by a reward model or rules, with a critic.",
    trainer="ftcli.worker.trainers.rl.ppo:PpoTrainer",
    config="ftcli.worker.trainers.rl.ppo_config:PpoConfig",
    task="prompts",
    kinds=("prompt",),
    roles=("policy", "reference", "reward", "value"),
    score="mean_reward",
    reports=("reward", "completions/mean_length", "completions/ended", "runtime", "samples_per_second"),
    training=TRAINING,
    sources={
        "num_ppo_epochs": Default(
            value=4, source="Tulu 3, TRL: 4 passes; InstructGPT, OpenRLHF: 1, over far larger rollouts"
        ),
        "num_mini_batches": Default(value=1, source="Tulu 3, TRL: 1"),
        "kl_coef": Default(value=0.05, source="Tulu 3 8B, TRL: 0.05; InstructGPT: 0.02"),
        "cliprange": Default(value=0.2, source="Schulman et al. 2017: 0.2"),
        "cliprange_value": Default(value=0.2, source="Stiennon et al. 2020, InstructGPT, Tulu 3: 0.2"),
        "vf_coef": Default(value=0.1, source="Stiennon et al. 2020, Tulu 3: 0.1"),
        "gamma": Default(value=1.0, source="Stiennon et al. 2020, Tulu 3: 1"),
        "lam": Default(value=0.95, source="Stiennon et al. 2020, Tulu 3: 0.95"),
        "temperature": Default(value=1.0, source="Tulu 3: 1; the policy itself is sampled"),
    },
    paper="Schulman et al. 2017, arXiv:1707.06347",
    limits={
        "num_ppo_epochs": Limit(low=1),
        "num_mini_batches": Limit(low=1),
        "max_new_tokens": Limit(low=1),
        "kl_coef": Limit(low=0),
        "kl_target": Limit(low=0, open_low=True),
        "kl_horizon": Limit(low=1),
        "gamma": Limit(low=0, high=1),
        "lam": Limit(low=0, high=1),
        "cliprange": Limit(low=0, open_low=True),
        "cliprange_value": Limit(low=0, open_low=True),
        "vf_coef": Limit(low=0),
        "value_learning_rate": Limit(low=0, open_low=True),
        "reward_clip": Limit(low=0, open_low=True),
        "log_completions_steps": Limit(low=0),
    },
    check=check,
    steps_per_epoch=steps_per_epoch,
    answers_together=answers_together,
)
