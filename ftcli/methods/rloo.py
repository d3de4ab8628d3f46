"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740): an answer is compared with the others of its group.

Each answer's baseline is the mean reward of the other answers to the same prompt, which keeps the gradient unbiased.
There is no critic, and the divergence from the reference is part of the reward.
"""

from dataclasses import replace

from ftcli.methods.grpo import METHOD as GRPO
from ftcli.settings.sourced_defaults import Default

_BATCH = Default(value=16, source="16 prompts × 4 answers are 64 answers, as in grpo; the paper: 512")

METHOD = replace(
    GRPO,
    name="rloo",
    training=replace(GRPO.training, batch=_BATCH),
    sources={
        "num_generations": Default(value=4, source="the paper, section 5.1: 4 answers beat 2 in every setting; TRL: 2"),
        "beta": Default(value=0.05, source="TRL: 0.05; the paper: 0.03 to 0.1"),
        "temperature": Default(value=1.0, source="the policy itself is sampled"),
    },
    summary="REINFORCE leave-one-out: several answers per prompt, each against the mean of the others; no critic.",
    trainer="ftcli.worker.trainers.rl.grpo:RlooTrainer",
    config="ftcli.worker.trainers.rl.grpo:RlooConfig",
    paper="Ahmadian et al. 2024, arXiv:2402.14740",
    variants={},
    without_variant={},
)
