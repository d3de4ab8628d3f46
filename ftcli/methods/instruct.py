"""Instruction tuning: as sft, but every row goes through the chat template; bare text and a model without a template
are refused."""

from dataclasses import replace

from ftcli.methods.sft import METHOD as SFT

METHOD = replace(
    SFT,
    name="instruct",
    summary="Instruction tuning: pairs and conversations, always through the chat template, loss on answers only.",
    task="instruct",
    kinds=("messages", "pair"),
    refuses_bare=True,
    paper="Ouyang et al. 2022, arXiv:2203.02155",
)
