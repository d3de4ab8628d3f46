"""Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300): an answer is compared with its group's mean.

Several answers are sampled per prompt; those above their mean reward become more likely. There is no critic. Without
`method.variant` the loss is that of TRL: the mean over all tokens of a step, as in DAPO, with the clipping, the scaled
advantages and no KL term of GRPO's usual practice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ftcli.core.errors import Problem
from ftcli.methods.method import Method, Variant
from ftcli.methods.ppo import reward_problems
from ftcli.methods.training_defaults import TrainingDefaults
from ftcli.settings.batch_plan import BatchPlan
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import BySize, Default

TRAINING = TrainingDefaults(
    full=BySize(
        {
            20: Default(value=1e-6, source="OLMo 3 7B, verl 7B, DAPO, TRL: 1e-6"),
            math.inf: Default(value=5e-7, source="OLMo 2 32B: 5e-7; OLMo 3 32B: 2e-6, for 512 answers a step"),
        }
    ),
    adapter=BySize(
        {
            20: Default(
                value=1e-5,
                source="ten times full fine-tuning's (LoRA Without Regret); tinker-cookbook: 1e-5, Unsloth: 5e-6",
            ),
            math.inf: Default(value=5e-6, source="ten times full fine-tuning's; Unsloth: 5e-6"),
        }
    ),
    epochs=Default(value=1, source="OLMo 3, Open-R1: prompts are answered once; each pass samples other answers"),
    batch=Default(
        value=8,
        source="8 prompts × 8 answers are 64 answers, the lower end of practice, for one card; tinker-cookbook: 8 to "
        "128 prompts, OLMo 3: 64 prompts × 8, Open-R1: 512 answers",
    ),
    schedule=Default(value="constant_with_warmup", source="OLMo 3, DAPO, verl: constant; Tulu 3, Open-R1: falling"),
    warmup=Default(value=0.03, source="OpenRLHF: 0.03; DAPO: 20 rollouts; OLMo 3: none"),
)

_GROUP = {"importance_sampling_level": "token", "scale_rewards": "group"}
VARIANTS = {
    "grpo": Variant(
        summary="the mean over the tokens of an answer, then over answers; a KL term against the reference",
        defines={"loss_type": "grpo", **_GROUP},
        # TRL multiplies the KL term by the probability ratio unless it is told not to.
        values={"beta": 0.04, "use_bias_correction_kl": False},
        paper="Shao et al. 2024, arXiv:2402.03300, equations 3 and 4 and section 4.2",
        remark="the paper does not state its clipping range",
    ),
    "dr_grpo": Variant(
        summary="no division by an answer's length or by the deviation of its group, both of which bias the gradient",
        defines={"loss_type": "dr_grpo", **_GROUP, "scale_rewards": "none"},
        values={"beta": 0.0},
        paper="Liu et al. 2025, arXiv:2503.20783, section 3.2",
    ),
    "dapo": Variant(
        summary="the mean over all tokens, a higher upper bound of clipping, truncated answers left out, no KL term",
        defines={"loss_type": "dapo", **_GROUP},
        values={"epsilon": 0.2, "epsilon_high": 0.28, "mask_truncated_completions": True, "beta": 0.0},
        paper="Yu et al. 2025, arXiv:2503.14476, equation 8 and section 4.1",
        remark="without its dynamic sampling, which TRL does not have: prompts whose answers all score alike stay",
    ),
    "gspo": Variant(
        summary="one probability ratio for a whole answer, the geometric mean of its tokens'",
        defines={"loss_type": "grpo", **_GROUP, "importance_sampling_level": "sequence"},
        values={"epsilon": 3e-4, "epsilon_high": 4e-4, "beta": 0.0},
        paper="Zheng et al. 2025, arXiv:2507.18071, equation 5 and section 5.1",
    ),
    "cispo": Variant(
        summary="every token keeps its gradient: the ratio is a bounded weight of it, and no reason to drop it",
        defines={"loss_type": "cispo", **_GROUP},
        values={"epsilon_high": 5.0, "beta": 0.0},
        paper="MiniMax 2025, arXiv:2506.13585, equation 4",
        remark="the bound is that of Khatri et al. 2025, arXiv:2510.13786: the paper does not state its own",
    ),
}
"""The forms of the loss that papers have given names to, with their values."""
_OFF_POLICY = {"gspo": "grpo", "cispo": "dapo"}
"""Variants that change the probability ratio alone, and the one that each equals where that ratio is 1."""
_PARTS = 4
"""Steps that GSPO trains on each generation, in its section 5.1."""


def warns(method: Mapping[str, Any], batch: BatchPlan, answers: int) -> list[str]:
    """The warning of a variant that has nothing to correct."""
    other = _OFF_POLICY.get(method.get("variant", ""))
    reused = int(method["num_iterations"]) > 1 or batch.answers_per_generation(method) > batch.rows
    if other is None or reused:
        return []
    what = f"method.variant={method['variant']} changes the probability ratio of answers to those sampled before, and"
    fix = f"set method.steps_per_generation={_PARTS * batch.accumulation}, for {_PARTS} steps a generation"
    return [f"{what} here each is trained on in one step, at once, where the loss is that of {other}; {fix}"]


def check(method: Mapping[str, Any]) -> list[Problem]:
    """Rules among its own fields."""
    found, clip = reward_problems(method), method.get("reward_clip_range")
    if variant := VARIANTS.get(str(method.get("variant"))):
        found.extend(variant.problems(method["variant"], method))
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
    reports=(
        *("reward", "reward_std", "rewards/{name}/mean", "rewards/{name}/std", "frac_reward_zero_std"),
        *(f"completions/{end}_length" for end in ("mean", "min", "max")),
        *(f"completions/{end}_terminated_length" for end in ("mean", "min", "max")),
        *("completions/clipped_ratio", "runtime", "samples_per_second"),
    ),
    training=TRAINING,
    sources={
        "num_generations": Default(value=8, source="OLMo 3, Tulu 3.1 and TRL: 8 to 16"),
        "beta": Default(value=0.0, source="DAPO, OLMo 3, TRL: no penalty and no reference in memory; the paper: 0.04"),
        "temperature": Default(value=1.0, source="the policy itself is sampled, so that the ratio starts at 1"),
        "epsilon": Default(value=0.2, source="Schulman et al. 2017, arXiv:1707.06347: 0.2"),
        "num_iterations": Default(value=1, source="the paper, OLMo 3: answers are learned from once"),
    },
    paper="Shao et al. 2024, arXiv:2402.03300",
    min_batch=2,
    limits={
        "num_generations": Limit(low=2),
        "beta": Limit(low=0),
        "num_iterations": Limit(low=1),
        "epsilon": Limit(low=0, open_low=True),
    },
    check=check,
    warns=warns,
    variants=VARIANTS,
    without_variant={
        "loss_type": "TRL's default, the mean over all tokens of a step; method.variant names a paper's whole loss"
    },
    steps_per_epoch=steps_per_epoch,
    answers_together=answers_together,
)
