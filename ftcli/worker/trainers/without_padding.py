"""Calls of the fused head with padded rows, computed without their padding: as one long row, see `unpadded`.

Every method that trains by the fused head's log-probabilities calls the model with padded rows of `input_ids`,
`attention_mask` and `labels`, and reads numbers of shape (rows, length − 1). It is given these, up to rounding, where
the architecture passes row boundaries on to its attention; in every other call the model computes as before.

Shapes: B rows of at most L tokens, T tokens in all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from ftcli.models.packing_support import UNPADS_EXACTLY
from ftcli.worker.tokenise.encoder import IGNORED
from ftcli.worker.trainers import unpadded

_BY_TOKEN = frozenset(
    {
        *("LORA", "ADALORA", "IA3", "VERA", "OFT", "BOFT", "HRA", "LOHA", "LOKR", "LN_TUNING", "FOURIERFT", "VBLORA"),
        *("RANDLORA", "MISS", "SHIRA", "C3A", "ROAD", "TRAINABLE_TOKENS", "BOTTLENECK"),
    }
)
"""Adapters that change a token's states by these alone. Others put tokens before a row or look at it as a whole."""
_ROWS = ("input_ids", "attention_mask", "labels")
_NOT_WITH = (
    "position_ids",
    "past_key_values",
    "inputs_embeds",
    "shift_labels",
    "output_router_logits",
    "token_type_ids",
)
"""Arguments of calls that are computed as before: laid out by their caller, or told by the row."""


def leave_out(model: Any) -> bool:
    """Let a model compute no padding in calls of its fused head. Returns whether it does from now on."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapters = getattr(model, "peft_config", None) or {}
    text = base.config.get_text_config()
    if (
        any(each.peft_type.name not in _BY_TOKEN or _invoked(each) for each in adapters.values())
        or text.model_type not in UNPADS_EXACTLY
        or text._attn_implementation != "sdpa"
        or getattr(text, "output_router_logits", False)
    ):
        return False
    base.forward = MethodType(_without_padding(base.forward), base)
    return True


def _invoked(adapter: Any) -> bool:
    """Whether an adapter is active from certain tokens of a row on (aLoRA)."""
    return getattr(adapter, "alora_invocation_tokens", None) is not None


def _without_padding(padded: Callable[..., Any]) -> Callable[..., Any]:
    """A forward pass as another one, without its padding where it has any and it can be left out."""

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **given: Any) -> Any:
        if not fused_lm_head:
            return padded(*args, **given)
        called = None if args else _padded_rows(given)
        lengths = None if called is None else _row_lengths(called[1], called[2])
        if called is None or lengths is None:
            return padded(*args, fused_lm_head=True, **given)
        ids, mask, labels = called
        real = mask.bool()
        rows = unpadded.Rows.of(lengths, ids.device)
        positions = torch.arange(ids.size(1), device=ids.device).expand_as(ids)[real]
        first = torch.tensor(lengths, device=ids.device).cumsum(0)[:-1]
        own = labels[real].index_fill(0, first, IGNORED)  # no row is asked to predict the next one's first token
        rest = {name: value for name, value in given.items() if name not in _ROWS}
        found = padded(
            input_ids=ids[real][None],
            labels=own[None],
            fused_lm_head=True,
            **unpadded.called_with(rows, positions[None]),
            **rest,
        )
        return _as_rows(found, real, first, labels[:, 1:] != IGNORED)

    return forward


def _padded_rows(given: Mapping[str, Any]) -> list[Tensor] | None:
    """Ids, mask and labels, each (B, L), of a call that has them and nothing that stands in _NOT_WITH."""
    found = [given.get(name) for name in _ROWS]
    if any(given.get(name) is not None for name in _NOT_WITH):
        return None
    rows = [each for each in found if isinstance(each, Tensor) and each.dim() == 2]
    return rows if len(rows) == len(_ROWS) else None


def _row_lengths(mask: Tensor, labels: Tensor) -> list[int] | None:
    """The tokens of each row; None without padding, or where a row is empty, has a gap or learns its first token."""
    real = mask.bool()
    begins = _begins(real)
    learns = (begins & (labels != IGNORED))[:, 1:].sum(1)
    told: list[list[int]] = torch.stack([real.sum(1), begins.sum(1), learns]).tolist()  # one transfer
    lengths, parts, first = told
    if all(length == mask.size(1) for length in lengths) or any(part != 1 for part in parts) or any(first):
        return None
    return lengths


def _begins(real: Tensor) -> Tensor:
    """Where a run of tokens begins."""
    return real & ~torch.nn.functional.pad(real, (1, 0))[:, :-1]


def _as_rows(found: Any, real: Tensor, first: Tensor, label_mask: Tensor) -> Any:
    """What a fused head said of one long row, with its numbers by token in padded rows: (1, T − 1) to (B, L − 1)."""
    scored = torch.ones(found.log_probs.size(1), dtype=torch.bool, device=real.device)
    scored[first - 1] = False  # where a row's last token would say the first of the next
    places = (real & ~_begins(real))[:, 1:]  # a token's number stands one place before it
    own = {
        each.name: torch.zeros(places.shape, dtype=value.dtype, device=value.device).masked_scatter(
            places, value[0][scored]
        )
        for each in fields(FusedCausalLMOutput)
        if isinstance(value := getattr(found, each.name), Tensor) and value.dim() == 2
    }
    return replace(found, **{**own, "label_mask": label_mask})
