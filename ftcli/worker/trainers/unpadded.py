"""Rows of different lengths through a model without padding: one long row for the layers, separate rows for attention.

Token-wise operations (projections, norms, feed-forward) then only compute real tokens. For attention alone the tokens
are laid out as padded rows, which torch's causal kernel takes without a mask, and gathered again; rows of very
different lengths in several such batches, so that a short one does not cost what a long one does. The result equals
that of padded rows up to rounding. The attention is that of every network with sdpa, and torch's own in any other call.

Shapes: T tokens of rows, of which C are computed, all of them where none are shared; B rows of at most L tokens in one
of the batches, H heads of size D.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

_SHORT = 32
"""Tokens of a row below which its attention costs less than a further call of the kernel."""
_ALIKE = 0.75
"""Rows whose lengths are at least this share of the longest one's are in one batch."""
_WORTH_SHARING = 1 / 16
"""Share of the tokens that have to be in common."""


class Rows(NamedTuple):
    """The mapping between one long row and batches of padded rows."""

    batches: tuple[Tensor, ...]
    """Each (B, L): for each position of the padded rows, the index of its token; any token for padding."""
    to_tokens: Tensor
    """(C,): for each token, its position among those of all batches, flattened one after the other."""
    of_rows: Tensor | None = None
    """(T,): for each token of the rows, the index of the one that is computed for it; None where each is."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device, shared: Shared | None = None) -> Rows:
        """The mapping for rows of these lengths, concatenated."""
        counts = torch.tensor(lengths)
        starts = counts.cumsum(0) - counts
        batches, to_tokens, before = [], torch.empty(int(counts.sum()), dtype=torch.long), 0
        for rows in _alike(lengths):
            of_batch, first = counts[rows], starts[rows]
            places = torch.arange(int(of_batch.max()))[None, :]
            inside = places < of_batch[:, None]
            tokens = first[:, None] + places
            to_tokens[tokens[inside]] = before + inside.flatten().nonzero()[:, 0]
            found = torch.where(inside, tokens, 0)
            batches.append((found if shared is None else shared.of_rows[found]).to(device))
            before += inside.numel()
        if shared is None:
            return cls(tuple(batches), to_tokens.to(device))
        return cls(tuple(batches), to_tokens[shared.computed].to(device), shared.of_rows.to(device))


class Shared(NamedTuple):
    """Which tokens of rows are computed where rows begin alike; on the CPU."""

    computed: Tensor
    """(C,): their indices among the T."""
    of_rows: Tensor
    """(T,): for each token, the index among the computed ones of that which is computed for it."""

    @classmethod
    def of(cls, ids: Sequence[int], lengths: Sequence[int], positions: Sequence[int]) -> Shared | None:
        """None where too few tokens are in common to be worth it.

        Args:
            ids: of all rows, concatenated, (T,).
            positions: at which the model has each row's first token.
        """
        starts = [0, *accumulate(lengths)]
        rows = [(at, *ids[a:b]) for at, (a, b) in zip(positions, pairwise(starts), strict=True)]
        of_rows = np.arange(len(ids))
        for before, row in pairwise(sorted(range(len(rows)), key=rows.__getitem__)):
            same = _in_common(rows[before], rows[row])
            of_rows[starts[row] : starts[row] + same] = of_rows[starts[before] : starts[before] + same]
        computed = np.unique(of_rows)
        if len(computed) > (1 - _WORTH_SHARING) * len(ids):
            return None
        return cls(torch.from_numpy(computed), torch.from_numpy(np.searchsorted(computed, of_rows)))


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """The tokens with which two rows begin alike; before the tokens of each stands its first position."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(np.array(one[:length]) != np.array(other[:length]))
    return max(0, (int(differs[0]) if len(differs) else length) - 1)


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """The numbers of rows of similar length, from the longest on."""
    found: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not found or (longest > _SHORT and lengths[row] < _ALIKE * longest):
            found.append([])
            longest = lengths[row]
        found[-1].append(row)
    return found


def called_with(rows: Rows, position_ids: Tensor) -> dict[str, Any]:
    """The further arguments of a call with tokens of shape (1, C)."""
    # transformers uses a 4-dimensional mask unchanged; otherwise it would build one of T × T.
    nothing = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=position_ids.device)
    return {"position_ids": position_ids, "attention_mask": nothing, "unpadded_rows": rows}


def give_each_its_states(_: Any, args: Any, called: Mapping[str, Any], found: Any) -> Any:
    """Let a network that computed shared tokens once return the states of all tokens of the rows; a forward hook."""
    rows = called.get("unpadded_rows")
    if rows is not None and rows.of_rows is not None:
        found.last_hidden_state = found.last_hidden_state.index_select(1, rows.of_rows)
    return found


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
    groups = getattr(module, "num_key_value_groups", 1)
    states = [each[0].transpose(0, 1) for each in (query, repeat_kv(key, groups), repeat_kv(value, groups))]
    found = []
    for rows in unpadded_rows.batches:
        length = rows.size(1)
        near = None  # without a sliding window the causal kernel needs no mask
        if sliding_window is not None and sliding_window < length:
            at = torch.arange(length, device=query.device)
            distance = at[:, None] - at[None, :]
            near = (distance >= 0) & (distance < sliding_window)
        queries, keys, values = (_as_rows(each, rows) for each in states)
        out = scaled_dot_product_attention(
            queries, keys, values, attn_mask=near, dropout_p=dropout, scale=scaling, is_causal=near is None
        )
        found.append(out.transpose(1, 2).flatten(0, 1))
    # (B·L, H, D) of each batch to (1, C, H, D), the layout that a layer expects.
    flat = torch.cat(found) if len(found) > 1 else found[0]
    return torch.index_select(flat, 0, unpadded_rows.to_tokens)[None], None


def _as_rows(states: Tensor, rows: Tensor) -> Tensor:
    """(C, H, D) to (B, H, L, D)."""
    return torch.index_select(states, 0, rows.flatten()).unflatten(0, tuple(rows.shape)).transpose(1, 2)


# Under the name of torch's own: whatever asks a configuration which attention it has, still hears "sdpa".
AttentionInterface.register("sdpa", _attention)
