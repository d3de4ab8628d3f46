"""Reinforcement learning from human feedback (Ouyang et al. 2022, arXiv:2203.02155, figure 2), as three runs.

Fine-tune on demonstrations, train a reward model on comparisons, and let the policy learn by PPO from that reward.
Reward model and policy both start from the fine-tuned model, which is also the reference of PPO.
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
            summary="a policy that answers as the demonstrations do",
            tiny={
                "data.path": "builtin:manners",
                "train.learning_rate": 1e-3,
                "train.num_train_epochs": 3,
                "train.per_device_train_batch_size": 4,
            },
        ),
        Stage(
            name="reward",
            method="reward",
            summary="a score for each answer, from comparisons",
            takes={"model.name_or_path": "sft"},
            tiny={
                "data.mix": {"manners": {"path": "builtin:preferences"}, "sense": {"path": "builtin:sense"}},
                "data.eval_path": "builtin:preferences",
                "train.learning_rate": 2e-4,
                "train.num_train_epochs": 2,
                "train.per_device_train_batch_size": 16,
            },
        ),
        Stage(
            name="ppo",
            method="ppo",
            summary="a policy whose own answers score higher",
            takes={"model.name_or_path": "sft", "method.reward_model": "reward"},
            tiny={
                "train.learning_rate": 1e-4,
                "train.num_train_epochs": 2,
                "train.per_device_train_batch_size": 32,
                "method.max_new_tokens": 32,
                "method.kl_coef": 0.2,
            },
        ),
    ),
    measured_by="ppo",
    paper="Ouyang et al. 2022, arXiv:2203.02155",
)
