"""Supervised fine-tuning: all tokens of text, the completion of pairs, the assistant turns of messages."""

from ftcli.methods.method import Method

METHOD = Method(
    name="sft",
    summary="Supervised fine-tuning on text, prompt-completion pairs or conversations; the place to start.",
    trainer="ftcli.worker.trainers.sft:SftTrainer",
    config="trl.trainer.sft_config:SFTConfig",
    task="sft",
    kinds=("messages", "pair", "text"),
    score="exact_match",
    learning_rates=(2e-5, 2e-4),
    paper="Wei et al. 2021, arXiv:2109.01652",
    weights="tokens",
    packs=True,
)
