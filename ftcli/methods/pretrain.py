"""Continued pre-training: next-token prediction on every token of raw text.

Rows are documents, each followed by the end token; with packing (the default) they are concatenated and split into
blocks of `data.max_length_tokens`, so no token is padding. A document does not attend to others in its block.
"""

import math

from ftcli.methods.method import Method
from ftcli.methods.training_defaults import TrainingDefaults
from ftcli.settings.sourced_defaults import BySize, Default

TRAINING = TrainingDefaults(
    full=BySize(
        {
            10: Default(value=5e-5, source="FineMath, continued pre-training of a 3B Llama (SmolLM2): 5e-5"),
            math.inf: Default(
                value=2e-5, source="Code Llama (arXiv:2308.12950, section 2.4), long context, to 34B: 2e-5"
            ),
        }
    ),
    adapter=BySize(
        {
            20: Default(
                value=2e-4,
                source="as sft with an adapter; LoRA Learns Less and Forgets Less (arXiv:2405.09673): the highest that "
                "stays stable, of 1e-5 to 5e-4",
            ),
            math.inf: Default(value=1e-4, source="half of it, as QLoRA halves its rate above 13B"),
        }
    ),
    epochs=Default(value=1, source="SmolLM2, OLMo 2: text is read once, where there is enough"),
    batch=Default(
        value=64, source="64 blocks of 2048 are 131,072 tokens; published runs of billions of tokens take 1M and more"
    ),
    schedule=Default(value="cosine", source="Gupta et al. 2023, arXiv:2308.04014: re-warm, then cosine"),
    warmup=Default(
        value=0.05, source="Gupta et al. 2023, arXiv:2308.04014: up to 0.02; longer here, as runs are short"
    ),
    more={
        "weight_decay": Default(value=0.1, source="SmolLM2, OLMo 2, Llama: 0.1"),
        "adam_beta2": Default(value=0.95, source="SmolLM2, OLMo 2, Llama: 0.95, for large batches"),
    },
)

METHOD = Method(
    name="pretrain",
    summary="Continued pre-training on raw text: new knowledge, language or domain.",
    trainer="ftcli.worker.trainers.sft:SftTrainer",
    config="trl.trainer.sft_config:SFTConfig",
    task="pretrain",
    kinds=("text",),
    score="none",
    training=TRAINING,
    paper="Gururangan et al. 2020, arXiv:2004.10964",
    weights="tokens",
    loss_over="tokens",
    packs=True,
    defaults={"packing_strategy": "wrapped"},
    next_method="sft",
    block_tokens=1024,
    overflow="split",
)
