"""Reward modelling: a reward score for each answer, learned from preference pairs.

The loss is the Bradley-Terry likelihood of the preference (Ouyang et al. 2022, arXiv:2203.02155, eq. 1), or the
cross-entropy to the probability of the preference where a judge gives one (Lee et al. 2023, arXiv:2309.00267, section
2.2). The head that computes the score from the last token is new and always trains.
"""

import math

from ftcli.methods.method import Method
from ftcli.methods.training_defaults import TrainingDefaults
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import BySize, Default, same_for_all

TRAINING = TrainingDefaults(
    full=BySize(
        {
            4: Default(value=1e-5, source="TRL's example: 1e-5"),
            math.inf: Default(value=9e-6, source="InstructGPT 6B, OpenRLHF 8B: 9e-6; Tulu 3 8B: 3e-6"),
        }
    ),
    adapter=same_for_all(Default(value=1e-4, source="TRL's LoRA example: 1e-4; ten times full fine-tuning's")),
    epochs=Default(value=1, source="InstructGPT: 1, since it overfits in more; OpenRLHF, Tulu 3: 1"),
    batch=Default(value=64, source="InstructGPT: 64; OpenRLHF, Tulu 3: 256"),
    schedule=Default(value="cosine", source="InstructGPT, OpenRLHF: cosine"),
    warmup=Default(value=0.03, source="OpenRLHF: 0.03"),
)

METHOD = Method(
    name="reward",
    summary="Reward modelling: a reward score for each answer, for RLHF or to rank answers.",
    trainer="ftcli.worker.trainers.reward:RewardTrainer",
    config="trl.trainer.reward_config:RewardConfig",
    task="preference",
    weights="rows",
    soft_labels=True,
    loss_over="pairs",
    kinds=("preference",),
    head="reward_model",
    joins_prompt=True,
    score="preference_accuracy",
    training=TRAINING,
    paper="Ouyang et al. 2022, arXiv:2203.02155",
    limits={"center_rewards_coefficient": Limit(low=0)},
)
