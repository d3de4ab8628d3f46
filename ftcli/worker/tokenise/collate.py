"""Packed blocks as batches in which each document only attends to itself.

TRL lays the blocks of a batch end to end in one row, as flash attention's variable-length kernels need. The other
kernels compute with a mask over the whole row, so a batch of B blocks of L tokens would cost (B·L)² there; here it
stays B rows of L tokens, at B·L². In both layouts positions keep documents apart, restarting at 0 in each: transformers
builds the mask from them if no attention mask is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import pad

from ftcli.worker.tokenise.encoder import IGNORED

MASKED = ("eager", "sdpa", "flex_attention")
"""Attention kernels that use a mask per row, which transformers builds from the row's positions."""


class PackedBlocks(DataCollatorForLanguageModeling):  # type: ignore[misc]
    """Blocks of `input_ids`, `labels` and `seq_lengths` (a row without the latter is one document) as a batch.

    Returns `input_ids`, `labels` and `position_ids` of shape (B, L), or (1, B·L) if `padding_free`. `attention_mask`,
    of the same shape, only marks the tokens that are not padding, for counting them: the trainer removes it before the
    model is called, since with a mask transformers would ignore the positions.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """As its parent."""
        if self.padding_free:
            batch = dict(super().torch_call([{**row, "seq_lengths": _lengths(row)} for row in examples]))
            not_padding = torch.zeros_like(batch["input_ids"])
            not_padding[:, : sum(len(row["input_ids"]) for row in examples)] = 1
            return {**batch, "attention_mask": not_padding}
        ids = [torch.tensor(row["input_ids"]) for row in examples]
        positions = [positions_of(_lengths(row)) for row in examples]
        # The first token of a document must not be predicted from the last of the one before it.
        labels = [
            torch.tensor(row["labels"]).masked_fill(at == 0, IGNORED)
            for row, at in zip(examples, positions, strict=True)
        ]

        def padded(rows: Sequence[Tensor], value: int) -> Tensor:
            return pad(rows, padding_value=value, padding_side="right", pad_to_multiple_of=self.pad_to_multiple_of)

        return {
            "input_ids": padded(ids, self.pad_token_id),
            "labels": padded(labels, IGNORED),
            # Each padding token is a document of its own, of one token.
            "position_ids": padded(positions, 0),
            "attention_mask": padded([torch.ones_like(row) for row in ids], 0),
        }


def collator_of(config: Any, model: Any, pad_token_id: int) -> PackedBlocks:
    """The collator for a trainer's packed blocks, in the layout that the model's attention kernel needs.

    Args:
        config: the trainer's config; its `pad_to_multiple_of` is used if it has one.
        model: the loaded model; its configuration names the kernel.
    """
    # Flash attention only reads the positions of a single row; in several rows, documents would see each other. One row
    # is right for every kernel, so kernels that are not known here get it too.
    flat = model.config._attn_implementation not in MASKED
    multiple = getattr(config, "pad_to_multiple_of", None)
    return PackedBlocks(pad_token_id=pad_token_id, padding_free=flat, pad_to_multiple_of=multiple)


def positions_of(lengths: Sequence[int]) -> Tensor:
    """0 to n − 1 for each document of n tokens, concatenated: shape (sum of lengths,)."""
    return torch.cat([torch.arange(length) for length in lengths])


def _lengths(row: dict[str, Any]) -> list[int]:
    return row.get("seq_lengths") or [len(row["input_ids"])]
