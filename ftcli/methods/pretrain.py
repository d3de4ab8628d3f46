"""Continued pre-training: next-token prediction on every token of raw text.

Rows are documents, each followed by the end token; with packing (the default) they are concatenated and split into
blocks of `data.max_length_tokens`, so no token is padding. A document does not attend to others in its block.
"""

from ftcli.methods.method import Method

METHOD = Method(
    name="pretrain",
    summary="Continued pre-training on raw text: new knowledge, language or domain.",
    trainer="ftcli.worker.trainers.sft:SftTrainer",
    config="trl.trainer.sft_config:SFTConfig",
    task="pretrain",
    kinds=("text",),
    score="none",
    learning_rates=(5e-5, 2e-4),
    paper="Gururangan et al. 2020, arXiv:2004.10964",
    weights="tokens",
    packs=True,
    defaults={"packing_strategy": "wrapped"},
    next_method="sft",
    block_tokens=1024,
    overflow="split",
)
