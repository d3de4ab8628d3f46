"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7): good and bad answers, not in pairs.

Each answer is compared with the policy's mean divergence from the reference, estimated from the answers of a batch.
"""

from ftcli.methods.method import Method
from ftcli.settings.limits import Limit

METHOD = Method(
    name="kto",
    summary="Kahneman-Tversky optimisation: single answers labelled good or bad, such as thumbs up and down.",
    trainer="ftcli.worker.trainers.preference.kto:KtoTrainer",
    config="ftcli.worker.trainers.preference.kto:KtoConfig",
    task="preference",
    weights="rows",
    kinds=("label", "preference"),
    roles=("policy", "reference"),
    score="preference_accuracy",
    learning_rates=(1e-6, 1e-5),
    paper="Ethayarajh et al. 2024, arXiv:2402.01306",
    min_batch=2,
    without=("precompute_ref_log_probs", "precompute_ref_batch_size"),
    limits={
        "beta": Limit(low=0.0, open_low=True),
        "desirable_weight": Limit(low=0.0, open_low=True),
        "undesirable_weight": Limit(low=0.0, open_low=True),
    },
)
