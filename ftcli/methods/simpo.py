"""Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734, eq. 6): the mean log-probability is the reward.

The mean matches what generation maximises and does not favour long answers; the chosen one must win by a margin.
"""

import math
from dataclasses import replace

from ftcli.methods.cpo import METHOD as CPO
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import BySize, Default

_TENFOLD = "ten times full fine-tuning's (LoRA Without Regret)"
TRAINING = replace(
    CPO.training,
    full=BySize(
        {
            4: Default(
                value=1e-6, source="the upper end of the authors' grid, 3e-7 to 1e-6; Llama 3 8B Instruct: 1e-6"
            ),
            40: Default(value=6e-7, source="the authors' recipe for Llama 3 8B: 6e-7; for Gemma 2 9B: 8e-7"),
            math.inf: Default(value=3e-7, source="the lower end of the authors' grid"),
        }
    ),
    adapter=BySize(
        {
            4: Default(value=1e-5, source=_TENFOLD),
            40: Default(value=6e-6, source=_TENFOLD),
            math.inf: Default(value=3e-6, source=_TENFOLD),
        }
    ),
)

METHOD = replace(
    CPO,
    name="simpo",
    summary="Simple preference optimisation: mean log-probability as reward, a target margin, one model in memory.",
    trainer="ftcli.worker.trainers.preference.reference_free:SimpoTrainer",
    config="ftcli.worker.trainers.preference.reference_free:SimpoConfig",
    training=TRAINING,
    sources={
        "beta": Default(value=2.0, source="the authors' recipes for Llama 3 8B and Mistral 7B: 2; for Gemma 2 9B: 10"),
        "gamma": Default(value=1.0, source="the authors' recipe for Llama 3 8B: half of beta"),
    },
    paper="Meng et al. 2024, arXiv:2405.14734",
    limits={**CPO.limits, "gamma": Limit(low=0.0)},
)
