"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7): good and bad answers, not in pairs.

Each answer is compared with the policy's mean divergence from the reference, estimated from all answers of a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ftcli.methods.dpo import TRAINING as DPO_TRAINING
from ftcli.methods.method import Method
from ftcli.settings.batch_plan import BatchPlan
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import Default

_BATCH = Default(value=32, source="HALOs (arXiv:2402.01306): 32; TRL: 16 to 128, for the reference point is its mean")

FEWEST_ANSWERS, MOST_ANSWERS = 16, 128
"""Answers a step that the authors advise, in the documentation of TRL's KTO trainer."""


def warns(method: Mapping[str, Any], batch: BatchPlan, answers: int) -> list[str]:
    """The warning of a step whose reference point is a mean over few answers."""
    if method["loss_type"] != "kto" or answers >= FEWEST_ANSWERS:
        return []
    what = f"a step has {answers} answers, and KTO's reference point is the mean over them; its authors advise"
    fix = "raise train.gradient_accumulation_steps or train.per_device_train_batch_size"
    return [f"{what} {FEWEST_ANSWERS} to {MOST_ANSWERS}: {fix}"]


METHOD = Method(
    name="kto",
    summary="Kahneman-Tversky optimisation: single answers labelled good or bad, such as thumbs up and down.",
    trainer="ftcli.worker.trainers.preference.kto:KtoTrainer",
    config="ftcli.worker.trainers.preference.kto:KtoConfig",
    task="preference",
    weights="rows",
    loss_over="answers",
    kinds=("label", "preference"),
    roles=("policy", "reference"),
    score="preference_accuracy",
    training=replace(DPO_TRAINING, batch=_BATCH),
    sources={
        "beta": Default(value=0.1, source="HALOs (arXiv:2402.01306): 0.1, with rates up to 1e-6 (TRL)"),
    },
    paper="Ethayarajh et al. 2024, arXiv:2402.01306",
    min_batch=2,
    warns=warns,
    without=("precompute_ref_log_probs", "precompute_ref_batch_size"),
    limits={
        "beta": Limit(low=0.0, open_low=True),
        "desirable_weight": Limit(low=0.0, open_low=True),
        "undesirable_weight": Limit(low=0.0, open_low=True),
    },
)
