"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, eq. 7).

The reference is the model as the run found it: the policy with its adapter disabled, or a frozen second copy when all
parameters train.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.errors import Problem
from ftcli.methods.base import Knob, Method

LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip


def check(method: Mapping[str, Any]) -> list[Problem]:
    """Rules among DPO's own fields."""
    losses = method.get("loss_type", ["sigmoid"])
    names = [losses] if isinstance(losses, str) else losses
    weights = method.get("loss_weights")
    if weights is not None and len(weights) != len(names):
        what = f"method.loss_weights has {len(weights)} entries for {len(names)} losses"
        return [Problem("method.loss_weights", what, "give one weight for each entry of method.loss_type")]
    if "exo_pair" in names and not method.get("label_smoothing", 0.0) > 0:
        what = "method.loss_type=exo_pair needs method.label_smoothing above 0"
        return [Problem("method.loss_type", what, "add method.label_smoothing=1e-3")]
    return []


METHOD = Method(
    name="dpo",
    summary="Direct preference optimisation: chosen over rejected answers, no reward model.",
    trainer="trl.trainer.dpo_trainer:DPOTrainer",
    config="trl.trainer.dpo_config:DPOConfig",
    task="preference",
    kinds=("preference",),
    roles=("policy", "reference"),
    score="preference_accuracy",
    learning_rates=(1e-6, 1e-5),
    paper="Rafailov et al. 2023, arXiv:2305.18290",
    limits={
        "loss_type": Knob(choices=LOSSES),
        "beta": Knob(low=0.0, open_low=True),
        "label_smoothing": Knob(low=0.0, high=0.5),
        "ld_alpha": Knob(low=0.0, high=1.0),
        "ref_model_mixup_alpha": Knob(low=0.0, high=1.0),
        "ref_model_sync_steps": Knob(low=1),
        "f_divergence_type": Knob(choices=("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")),
    },
    check=check,
)
