"""Instruction tuning: as sft, but every row is rendered through the chat template, and plain text is rejected."""

from dataclasses import replace

from ftcli.methods.sft import METHOD as SFT

METHOD = replace(
    SFT,
    name="instruct",
    summary="Instruction tuning: pairs and conversations, always through the chat template, loss on answers only.",
    task="instruct",
    kinds=("messages", "pair"),
    templates_pairs=True,
    paper="Ouyang et al. 2022, arXiv:2203.02155",
)
