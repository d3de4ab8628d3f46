"""Reinforcement learning from human feedback (Ouyang et al. 2022, arXiv:2203.02155, figure 2), as three runs.

Fine-tune on demonstrations, train a reward model on preference pairs, and train the policy with PPO on that reward.
Reward model and policy both start from the fine-tuned model, which is also PPO's reference.
"""

from __future__ import annotations

from ftcli.methods.pipeline import Pipeline, Stage

PIPELINE = Pipeline(
    name="rlhf",
    summary="Reinforcement learning from human feedback: fine-tuning, a reward model and PPO as one command.",
    stages=(
        Stage(
            name="sft",
            method="sft",
            summary="a policy fine-tuned on demonstrations",
        ),
        Stage(
            name="reward",
            method="reward",
            summary="a reward model trained on preference pairs",
            takes={"model.name_or_path": "sft"},
        ),
        Stage(
            name="ppo",
            method="ppo",
            summary="a policy whose answers get higher rewards",
            takes={"model.name_or_path": "sft", "method.reward_model": "reward"},
        ),
    ),
    measured_by="ppo",
    paper="Ouyang et al. 2022, arXiv:2203.02155",
)
