"""Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691, eq. 6): SFT and preferences in one loss.

Supervised fine-tuning on the chosen answer plus the log odds ratio of chosen to rejected. It needs no reference model,
so it may start from a base model without SFT first.
"""

from ftcli.methods.method import Method
from ftcli.settings.limits import Limit

OF_A_REFERENCE = (
    "precompute_ref_batch_size", "loss_type", "loss_weights", "ld_alpha", "f_divergence_type",
    "f_alpha_divergence_coef", "use_weighting", "discopop_tau", "sync_ref_model", "ref_model_mixup_alpha",
    "ref_model_sync_steps",
)  # fmt: skip
"""Fields of DPO's config that concern the reference, or choose among DPO's losses."""

REPORTS = (
    "loss", "runtime", "samples_per_second", "steps_per_second", "nll", "num_tokens", "rewards/chosen",
    "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
)  # fmt: skip
"""Held-out metrics of the losses without a reference."""

METHOD = Method(
    name="orpo",
    summary="Odds ratio preference optimisation: SFT and preferences in one run, one model in memory.",
    trainer="ftcli.worker.trainers.preference.reference_free:OrpoTrainer",
    config="ftcli.worker.trainers.preference.reference_free:OrpoConfig",
    task="preference",
    weights="rows",
    kinds=("preference",),
    score="preference_accuracy",
    reports=REPORTS,
    learning_rates=(8e-6, 5e-5),
    paper="Hong et al. 2024, arXiv:2403.07691",
    fixed={"precompute_ref_log_probs": True},  # keeps the trainer from loading a reference; nothing is computed
    without=(*OF_A_REFERENCE, "label_smoothing"),
    limits={"beta": Limit(low=0.0, open_low=True)},
)
