"""Rows of different lengths through a model without padding: one long row to the layers, rows apart to the attention.

What a layer does token by token (projections, norms, the feed-forward part) costs as many tokens as there are. For the
attention alone the tokens are laid out as padded rows, which torch's causal kernel takes without a mask, and gathered
again. The result is that of padded rows, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "ftcli_unpadded"
"""The attention of a network that may be called so; called otherwise it is torch's, as before."""


class Rows(NamedTuple):
    """Where the tokens of one long row stand as rows of their own."""

    to_rows: Tensor
    """(B, L): for each place of the padded rows the token that stands there, any token on padding."""
    to_tokens: Tensor
    """(T,): for each token its place among the B·L."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Rows:
        """Rows of those lengths, one behind the other."""
        counts = torch.tensor(lengths)
        starts = counts.cumsum(0) - counts
        places = torch.arange(int(counts.max()))[None, :]
        inside = places < counts[:, None]
        to_rows = torch.where(inside, starts[:, None] + places, 0)
        return cls(to_rows.to(device), inside.flatten().nonzero()[:, 0].to(device))


def install(network: Any) -> None:
    """Have a network take rows without padding. Its attention was sdpa, and is in every other call."""
    network.config.get_text_config()._attn_implementation = NAME


@contextmanager
def plain(network: Any) -> Iterator[None]:
    """The network under its own attention's name, for what asks for the name."""
    config = network.config.get_text_config()
    name = config._attn_implementation
    config._attn_implementation = "sdpa" if name == NAME else name
    try:
        yield
    finally:
        config._attn_implementation = name


def called_with(rows: Rows, position_ids: Tensor) -> dict[str, Any]:
    """What a network is called with beside the tokens, of shape (1, T)."""
    # A mask of four dimensions is taken as it is, so that none of T × T is built.
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
    asked, keys, values = (_as_rows(each, rows) for each in (query, repeat_kv(key, groups), repeat_kv(value, groups)))
    near = None
    if sliding_window is not None and sliding_window < length:
        at = torch.arange(length, device=query.device)
        distance = at[:, None] - at[None, :]
        near = (distance >= 0) & (distance < sliding_window)
    out = scaled_dot_product_attention(
        asked, keys, values, attn_mask=near, dropout_p=dropout, scale=scaling, is_causal=near is None
    )
    # (B, H, L, D) to (1, T, H, D), as a layer wants it.
    flat = out.transpose(1, 2).flatten(0, 1)
    return torch.index_select(flat, 0, rows.to_tokens)[None], None


def _as_rows(states: Tensor, rows: Rows) -> Tensor:
    """(1, H, T, D) to (B, H, L, D)."""
    found = torch.index_select(states[0].transpose(0, 1), 0, rows.to_rows.flatten())
    return found.unflatten(0, tuple(rows.to_rows.shape)).transpose(1, 2)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
