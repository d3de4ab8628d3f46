"""Reward modelling: a reward score for each answer, learned from preference pairs.

The loss is the Bradley-Terry likelihood of the preference (Ouyang et al. 2022, arXiv:2203.02155, eq. 1). The head that
computes the score from the last token is new and always trains.
"""

from ftcli.methods.method import Method
from ftcli.settings.limits import Limit

METHOD = Method(
    name="reward",
    summary="Reward modelling: a reward score for each answer, for RLHF or to rank answers.",
    trainer="ftcli.worker.trainers.reward:RewardTrainer",
    config="trl.trainer.reward_config:RewardConfig",
    task="preference",
    weights="rows",
    kinds=("preference",),
    head="reward_model",
    joins_prompt=True,
    score="preference_accuracy",
    learning_rates=(1e-5, 1e-4),
    paper="Ouyang et al. 2022, arXiv:2203.02155",
    limits={"center_rewards_coefficient": Limit(low=0)},
)
