"""Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691, eq. 6): SFT and preferences in one loss.

Supervised fine-tuning on the chosen answer plus the log odds ratio of chosen to rejected. It needs no reference model,
so it may start from a base model without SFT first.
"""

import math

from ftcli.methods.method import Method
from ftcli.methods.training_defaults import TrainingDefaults
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import BySize, Default

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

TRAINING = TrainingDefaults(
    full=BySize(
        {
            4: Default(value=8e-6, source="Hong et al. 2024, arXiv:2403.07691, appendix: 8e-6"),
            math.inf: Default(value=5e-6, source="Mistral-ORPO 7B and Zephyr-ORPO 141B: 5e-6"),
        }
    ),
    adapter=BySize(
        {
            4: Default(value=8e-5, source="ten times full fine-tuning's (LoRA Without Regret)"),
            math.inf: Default(value=5e-5, source="ten times full fine-tuning's (LoRA Without Regret)"),
        }
    ),
    epochs=Default(
        value=1,
        source="one pass, as preferences are usually trained; the authors take 3 to 5 to fine-tune a base with it",
    ),
    batch=Default(value=32, source="as dpo; Mistral-ORPO: 32 to 64"),
    schedule=Default(value="cosine", source="the authors' code: cosine; their 7B models: inverse square root"),
    warmup=Default(value=0.1, source="as dpo; Mistral-ORPO: 100 to 200 steps"),
)

METHOD = Method(
    name="orpo",
    summary="Odds ratio preference optimisation: SFT and preferences in one run, one model in memory.",
    trainer="ftcli.worker.trainers.preference.reference_free:OrpoTrainer",
    config="ftcli.worker.trainers.preference.reference_free:OrpoConfig",
    task="preference",
    weights="rows",
    loss_over="pairs",
    kinds=("preference",),
    score="preference_accuracy",
    reports=REPORTS,
    training=TRAINING,
    sources={"beta": Default(value=0.1, source="Mistral-ORPO-β: 0.1; on Capybara and Zephyr-ORPO 141B: 0.05")},
    paper="Hong et al. 2024, arXiv:2403.07691",
    fixed={"precompute_ref_log_probs": True},  # keeps the trainer from loading a reference; nothing is computed
    without=(*OF_A_REFERENCE, "label_smoothing"),
    limits={"beta": Limit(low=0.0, open_low=True)},
)
