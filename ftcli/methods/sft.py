"""Supervised fine-tuning: all tokens of text, the completion of pairs, the assistant turns of messages."""

import math

from ftcli.methods.method import Method
from ftcli.methods.training_defaults import TrainingDefaults
from ftcli.settings.sourced_defaults import BySize, Default

LORA_RATES = BySize(
    {
        2.5: Default(
            value=5e-4,
            source="LoRA Without Regret (Schulman et al. 2025): 5e-5 · 10 · (2000 / hidden size)^0.08 for Qwen, ^0.78 "
            "for Llama, 5e-4 at a hidden size of 2048",
        ),
        20: Default(
            value=2e-4,
            source="QLoRA (arXiv:2305.14314, table 9): 2e-4 for 7B and 13B; Zephyr 7B QLoRA, Unsloth, TRL: 2e-4",
        ),
        math.inf: Default(value=1e-4, source="QLoRA (arXiv:2305.14314, table 9): 1e-4 for 33B and 65B"),
    }
)
"""LoRA's rates where answers are imitated: they fall with the size, but less than those of full fine-tuning."""

TRAINING = TrainingDefaults(
    full=BySize(
        {
            2.5: Default(
                value=5e-5,
                source="LoRA Without Regret, as tinker-cookbook has it: 5e-5 at a hidden size of 2000; SmolLM2 takes "
                "3e-4 to 1e-3 for a base that no one had tuned",
            ),
            10: Default(value=2e-5, source="SmolLM3 3B, Zephyr 7B and OLMo 2 7B: 2e-5; Tulu 3 8B: 5e-6"),
            20: Default(value=5e-6, source="OLMo 2 13B: 5e-6"),
            40: Default(value=4e-6, source="OLMo 2 32B: 4e-6"),
            math.inf: Default(value=2e-6, source="Tulu 3 70B: 2e-6"),
        }
    ),
    adapter=LORA_RATES,
    epochs=Default(value=2, source="Tulu 3, SmolLM2 and OLMo 2: 2; Unsloth: 1 to 3"),
    batch=Default(
        value=16,
        source="QLoRA (arXiv:2305.14314, table 9): 16; Unsloth: 8 to 16. Recipes for a million rows take 128, and LoRA "
        "tolerates large batches less (LoRA Without Regret)",
    ),
    schedule=Default(value="cosine", source="Zephyr, SmolLM2, SmolLM3: cosine; Tulu 3: linear"),
    warmup=Default(value=0.03, source="QLoRA, Tulu 3, SmolLM3: 0.03"),
)

METHOD = Method(
    name="sft",
    summary="Supervised fine-tuning on text, prompt-completion pairs or conversations; the place to start.",
    trainer="ftcli.worker.trainers.sft:SftTrainer",
    config="trl.trainer.sft_config:SFTConfig",
    task="sft",
    kinds=("messages", "pair", "text"),
    score="exact_match",
    training=TRAINING,
    paper="Wei et al. 2021, arXiv:2109.01652",
    weights="tokens",
    loss_over="tokens",
    packs=True,
)
