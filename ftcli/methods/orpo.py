"""Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691, eq. 6): one loss for instructions and taste.

Supervised fine-tuning on the chosen answer, and the odds of chosen against rejected beside it; no reference model, so
it may start from a base model without a round of SFT before.
"""

from ftcli.methods.method import Method
from ftcli.settings.limits import Limit

OF_A_REFERENCE = (
    "precompute_ref_batch_size", "loss_type", "loss_weights", "ld_alpha", "f_divergence_type",
    "f_alpha_divergence_coef", "use_weighting", "discopop_tau", "sync_ref_model", "ref_model_mixup_alpha",
    "ref_model_sync_steps",
)  # fmt: skip
"""Fields of DPO's config that say how the policy is held against a reference, or which of its losses is taken."""

METHOD = Method(
    name="orpo",
    summary="Odds ratio preference optimisation: SFT and preferences in one run, one model in memory.",
    trainer="ftcli.worker.trainers.preference.reference_free:OrpoTrainer",
    config="ftcli.worker.trainers.preference.reference_free:OrpoConfig",
    task="preference",
    kinds=("preference",),
    score="preference_accuracy",
    learning_rates=(8e-6, 5e-5),
    paper="Hong et al. 2024, arXiv:2403.07691",
    fixed={"precompute_ref_log_probs": True},  # so that the trainer loads no reference; there is nothing to compute
    without=(*OF_A_REFERENCE, "label_smoothing"),
    limits={"beta": Limit(low=0.0, open_low=True)},
)
