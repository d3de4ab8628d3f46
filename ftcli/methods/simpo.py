"""Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734, eq. 6): the mean log-probability is the reward.

The mean matches what generation maximises and does not favour long answers; the chosen one must win by a margin.
"""

from dataclasses import replace

from ftcli.methods.cpo import METHOD as CPO
from ftcli.settings.limits import Limit

METHOD = replace(
    CPO,
    name="simpo",
    summary="Simple preference optimisation: mean log-probability as reward, a target margin, one model in memory.",
    trainer="ftcli.worker.trainers.preference.reference_free:SimpoTrainer",
    config="ftcli.worker.trainers.preference.reference_free:SimpoConfig",
    learning_rates=(8e-7, 8e-6),
    paper="Meng et al. 2024, arXiv:2405.14734",
    limits={**CPO.limits, "gamma": Limit(low=0.0)},
)
