"""Contrastive preference optimisation (Xu et al. 2024, arXiv:2401.08417, eq. 5): DPO's loss with a uniform reference.

A likelihood term on the chosen answer keeps its probability from falling along with the rejected one's.
"""

from dataclasses import replace

from ftcli.methods.orpo import METHOD as ORPO
from ftcli.methods.orpo import OF_A_REFERENCE
from ftcli.settings.limits import Limit

METHOD = replace(
    ORPO,
    name="cpo",
    summary="Contrastive preference optimisation: DPO without a reference, plus the likelihood of chosen answers.",
    trainer="ftcli.worker.trainers.preference.reference_free:CpoTrainer",
    config="ftcli.worker.trainers.preference.reference_free:CpoConfig",
    learning_rates=(1e-6, 1e-5),
    paper="Xu et al. 2024, arXiv:2401.08417",
    without=OF_A_REFERENCE,
    limits={**ORPO.limits, "label_smoothing": Limit(low=0.0, high=0.5, open_high=True)},
)
