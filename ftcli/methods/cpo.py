"""Contrastive preference optimisation (Xu et al. 2024, arXiv:2401.08417, eq. 5): DPO's loss with a uniform reference.

A likelihood term on the chosen answer keeps its probability from falling along with the rejected one's.
"""

from dataclasses import replace

from ftcli.methods.dpo import TRAINING
from ftcli.methods.orpo import METHOD as ORPO
from ftcli.methods.orpo import OF_A_REFERENCE
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import Default

METHOD = replace(
    ORPO,
    name="cpo",
    summary="Contrastive preference optimisation: DPO without a reference, plus the likelihood of chosen answers.",
    trainer="ftcli.worker.trainers.preference.reference_free:CpoTrainer",
    config="ftcli.worker.trainers.preference.reference_free:CpoConfig",
    training=TRAINING,
    sources={"beta": Default(value=0.1, source="ALMA-R (arXiv:2401.08417): 0.1")},
    paper="Xu et al. 2024, arXiv:2401.08417",
    without=OF_A_REFERENCE,
    limits={**ORPO.limits, "label_smoothing": Limit(low=0.0, high=0.5, open_high=True)},
)
