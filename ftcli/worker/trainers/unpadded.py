"""Rows of different lengths through a model without padding: one long row for the layers, separate rows for attention.

Token-wise operations (projections, norms, feed-forward) then only compute real tokens. For attention alone the tokens
are laid out as padded rows, which torch's causal kernel takes without a mask, and gathered again. The result equals
that of padded rows up to rounding. The attention is that of every network with sdpa, and torch's own in any other call.

Shapes: B rows of at most L tokens, T tokens in all, H heads of size D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward


class Rows(NamedTuple):
    """The mapping between one long row and the padded rows."""

    to_rows: Tensor
    """(B, L): for each position of the padded rows, the index of its token; any token for padding."""
    to_tokens: Tensor
    """(T,): for each token, its position among the B·L."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Rows:
        """The mapping for rows of these lengths, concatenated."""
        counts = torch.tensor(lengths)
        starts = counts.cumsum(0) - counts
        places = torch.arange(int(counts.max()))[None, :]
        inside = places < counts[:, None]
        to_rows = torch.where(inside, starts[:, None] + places, 0)
        return cls(to_rows.to(device), inside.flatten().nonzero()[:, 0].to(device))


def called_with(rows: Rows, position_ids: Tensor) -> dict[str, Any]:
    """The further arguments of a call with tokens of shape (1, T)."""
    # transformers uses a 4-dimensional mask unchanged; otherwise it would build one of T × T.
    nothing = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=position_ids.device)
    return {"position_ids": position_ids, "attention_mask": nothing, "unpadded_rows": rows}


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    unpadded_rows: Rows | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    if unpadded_rows is None:
        how = {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window, **more}
        found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **how)
        return found, None
    rows, length = unpadded_rows, unpadded_rows.to_rows.size(1)
    groups = getattr(module, "num_key_value_groups", 1)
    queries, keys, values = (_as_rows(each, rows) for each in (query, repeat_kv(key, groups), repeat_kv(value, groups)))
    near = None  # without a sliding window the causal kernel needs no mask
    if sliding_window is not None and sliding_window < length:
        at = torch.arange(length, device=query.device)
        distance = at[:, None] - at[None, :]
        near = (distance >= 0) & (distance < sliding_window)
    out = scaled_dot_product_attention(
        queries, keys, values, attn_mask=near, dropout_p=dropout, scale=scaling, is_causal=near is None
    )
    # (B, H, L, D) to (1, T, H, D), the layout that a layer expects.
    flat = out.transpose(1, 2).flatten(0, 1)
    return torch.index_select(flat, 0, rows.to_tokens)[None], None


def _as_rows(states: Tensor, rows: Rows) -> Tensor:
    """(1, H, T, D) to (B, H, L, D)."""
    found = torch.index_select(states[0].transpose(0, 1), 0, rows.to_rows.flatten())
    return found.unflatten(0, tuple(rows.to_rows.shape)).transpose(1, 2)


# Under the name of torch's own: whatever asks a configuration which attention it has, still hears "sdpa".
AttentionInterface.register("sdpa", _attention)
