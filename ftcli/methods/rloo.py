"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740): an answer is compared with the others of its group.

Each answer's baseline is the mean reward of the other answers to the same prompt, which keeps the gradient unbiased.
There is no critic, and the divergence from the reference is part of the reward.
"""

from dataclasses import replace

from ftcli.methods.grpo import METHOD as GRPO

METHOD = replace(
    GRPO,
    name="rloo",
    summary="REINFORCE leave-one-out: several answers per prompt, each against the mean of the others; no critic.",
    trainer="ftcli.worker.trainers.rl.grpo:RlooTrainer",
    config="ftcli.worker.trainers.rl.grpo:RlooConfig",
    paper="Ahmadian et al. 2024, arXiv:2402.14740",
    variants={},
    without_variant={},
)
