"""Calls of the fused head, computed without padding and work across documents, what is alike once, as in `unpadded`.

Every method that trains by the fused head's log-probabilities calls the model with rows of `input_ids` and `labels`:
padded ones with an `attention_mask`, or blocks of packed documents with `position_ids` that start at 0 in each. It
reads numbers of shape (rows, length − 1), and is given these, up to rounding, where the architecture passes document
boundaries on to its attention; in every other call the model computes as before. A reward model's scores of padded rows
are computed so too.

Shapes: B rows of at most L tokens, which hold T tokens of documents, of which C are computed. A padded row is one
document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
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
_ROWS = ("input_ids", "labels", "attention_mask", "position_ids")
_NOT_WITH = (
    "past_key_values",
    "inputs_embeds",
    "shift_labels",
    "output_router_logits",
    "token_type_ids",
)
"""Arguments of calls that are computed as before: laid out by their caller, or told by the row."""


def can_be_left_out(network: Any, training: Any) -> bool:
    """Whether a network computes no padding, with an adapter of _BY_TOKEN or none.

    Args:
        network: its configuration.
        training: the trainer's.
    """
    text = network.get_text_config()
    return not (
        text.model_type not in UNPADS_EXACTLY
        or text._attn_implementation != "sdpa"
        or getattr(text, "output_router_logits", False)
        or training.torch_compile  # lengths that change would be compiled anew
        or getattr(training, "neftune_noise_alpha", None)  # noise that depends on the length of a row
    )


def leave_out(model: Any, training: Any) -> bool:
    """Let a model compute no padding in calls of its fused head. Returns whether it does from now on."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapters = getattr(model, "peft_config", None) or {}
    by_token = all(each.peft_type.name in _BY_TOKEN and not _invoked(each) for each in adapters.values())
    if not by_token or not can_be_left_out(base.config, training):
        return False
    _register_once(base.base_model)
    scores = isinstance(base, GenericForSequenceClassification)
    wrapped = _scores if scores else _token_numbers
    base.forward = MethodType(wrapped(base.forward, has_dropout=_has_dropout(model)), base)
    return True


def _register_once(network: Any) -> None:
    """Register the hook on a network, which may be that of a trainer before: given twice, states would be wrong."""
    give = unpadded.give_each_its_states
    if give not in network._forward_hooks.values():
        network.register_forward_hook(give, with_kwargs=True)


def _has_dropout(model: Any) -> bool:
    """Whether, in training, a token that two rows have in common is computed by other draws in each."""
    settings = model.config.get_text_config().to_dict()
    own = [value for name, value in settings.items() if "dropout" in name or name.endswith("pdrop")]
    modules = [each.p for each in model.modules() if isinstance(each, torch.nn.Dropout)]
    return any(isinstance(share, int | float) and share > 0 for share in (*own, *modules))


def _invoked(adapter: Any) -> bool:
    """Whether an adapter is active from certain tokens of a row on (aLoRA)."""
    return getattr(adapter, "alora_invocation_tokens", None) is not None


def _token_numbers(padded: Callable[..., Any], *, has_dropout: bool) -> Callable[..., Any]:
    """The forward pass of a causal model as another one, without what can be left out of it."""

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **given: Any) -> Any:
        if not fused_lm_head:
            return padded(*args, **given)
        documents = None if args else _documents(given)
        called = None
        if documents is not None:
            shares = not (has_dropout and self.training)
            called = _as_one_row(given["input_ids"], given.get("position_ids"), documents, shares=shares)
        if documents is None or called is None:
            return padded(*args, fused_lm_head=True, **given)
        labels, (real, begins, lengths, _) = given["labels"], documents
        first = torch.tensor(lengths, device=labels.device).cumsum(0)[:-1]
        own = labels[real].index_fill(0, first, IGNORED)  # no document is asked to predict the next one's first token
        rest = {name: value for name, value in given.items() if name not in _ROWS}
        found = padded(labels=own[None], fused_lm_head=True, **called, **rest)
        return _as_rows(found, real & ~begins, first, labels[:, 1:] != IGNORED)

    return forward


def _scores(padded: Callable[..., Any], *, has_dropout: bool) -> Callable[..., Any]:
    """The forward pass of a model that scores rows as another one, without what can be left out of it."""

    def forward(self: Any, *args: Any, **given: Any) -> Any:
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        further = {name for name, value in given.items() if value is not None} - {"input_ids", "attention_mask"}
        pad = self.config.get_text_config().pad_token_id
        if args or further - {"use_cache", "return_dict"} or ids is None or mask is None or pad is None:
            return padded(*args, **given)
        # The token whose state is scored, as transformers chooses it: the last that is not the padding's.
        last = (torch.arange(ids.size(1), device=ids.device) * (ids != pad)).argmax(1, keepdim=True)
        documents = _of_padded(mask, torch.full_like(ids, IGNORED)) if mask.dim() == 2 else None
        if documents is None or not bool(documents.real.gather(1, last).all()):
            return padded(*args, **given)
        called = _as_one_row(ids, None, documents, shares=not (has_dropout and self.training))
        if called is None:
            return padded(*args, **given)
        states = getattr(self, self.base_model_prefix)(use_cache=False, **called).last_hidden_state[0]
        numbers = (documents.real.flatten().cumsum(0) - 1).view_as(ids)
        return SequenceClassifierOutputWithPast(logits=self.score(states[numbers.gather(1, last)[:, 0]]))

    return forward


def _as_one_row(ids: Tensor, positions: Tensor | None, documents: _Documents, *, shares: bool) -> dict[str, Any] | None:
    """How a model is called with documents as one row; None where nothing would be left out.

    Args:
        shares: what documents have in common at their beginnings may be computed once.
    """
    real, begins, lengths, is_whole = documents
    if positions is None:  # as the model counts them: from the padding on, where that stands before a row
        positions = torch.arange(ids.size(1), device=ids.device).expand_as(ids)
    tokens, places = ids[real], positions[real]
    shared = None
    if shares and len(lengths) > 1:
        shared = unpadded.Shared.of(tokens.tolist(), lengths, positions[begins].tolist())
    if shared is None and is_whole:
        return None
    if shared is not None:
        computed = shared.computed.to(ids.device)
        tokens, places = tokens[computed], places[computed]
    rows = unpadded.Rows.of(lengths, ids.device, shared)
    return {"input_ids": tokens[None], **unpadded.called_with(rows, places[None])}


class _Documents(NamedTuple):
    """Where the documents of a call lie."""

    real: Tensor
    """(B, L): where a token of a document is."""
    begins: Tensor
    """(B, L): where a document begins."""
    lengths: list[int]
    """Of each document, row after row."""
    is_whole: bool
    """Each row is one document, without padding."""


def _documents(given: Mapping[str, Any]) -> _Documents | None:
    """The documents of a call; None where what it asks for needs it whole."""
    ids, labels, mask, positions = (given.get(name) for name in _ROWS)
    told = mask if positions is None else positions
    if any(given.get(name) is not None for name in _NOT_WITH) or (mask is not None and positions is not None):
        return None
    if not all(isinstance(each, Tensor) and each.dim() == 2 for each in (ids, labels, told)):
        return None
    return _of_padded(mask, labels) if positions is None else _of_packed(positions, labels)


def _of_padded(mask: Tensor, labels: Tensor) -> _Documents | None:
    """None where a row is empty, has a gap or learns its first token."""
    real = mask.bool()
    begins = real & ~torch.nn.functional.pad(real, (1, 0))[:, :-1]
    learns = (begins & (labels != IGNORED))[:, 1:].sum(1)
    told: list[list[int]] = torch.stack([real.sum(1), begins.sum(1), learns]).tolist()  # one transfer
    lengths, parts, first = told
    if any(part != 1 for part in parts) or any(first):
        return None
    return _Documents(real, begins, lengths, is_whole=all(length == mask.size(1) for length in lengths))


def _of_packed(positions: Tensor, labels: Tensor) -> _Documents | None:
    """None where positions are none of documents, or one learns its first token.

    A document of one token predicts nothing and is seen by no other, so it is left out. Padding is such documents.
    """
    begins = positions == 0
    ends = torch.nn.functional.pad(begins[:, 1:], (0, 1), value=True)
    goes_on = (positions[:, 1:] == positions[:, :-1] + 1) | begins[:, 1:]
    learns = (begins & (labels != IGNORED))[:, 1:]
    real = ~(begins & ends)
    begins, ends = begins & real, ends & real
    told = torch.stack(
        [(positions[:, 0] == 0).all() & goes_on.all(), learns.any(), begins.sum() > len(begins), ~real.all()]
    )
    are_documents, any_learns, several, alone = told.tolist()
    if not are_documents or any_learns:
        return None
    lengths: list[int] = (ends.flatten().nonzero() - begins.flatten().nonzero() + 1)[:, 0].tolist()
    return _Documents(real, begins, lengths, is_whole=not (several or alone)) if lengths else None


def _as_rows(found: Any, places: Tensor, first: Tensor, label_mask: Tensor) -> Any:
    """What a fused head said of one long row, with its numbers by token in padded rows: (1, T − 1) to (B, L − 1).

    Args:
        places: (B, L), the tokens that are predicted.
    """
    scored = torch.ones(found.log_probs.size(1), dtype=torch.bool, device=places.device)
    scored[first - 1] = False  # where a document's last token would say the first of the next
    places = places[:, 1:]  # a token's number stands one place before it
    own = {
        each.name: torch.zeros(places.shape, dtype=value.dtype, device=value.device).masked_scatter(
            places, value[0][scored]
        )
        for each in fields(FusedCausalLMOutput)
        if isinstance(value := getattr(found, each.name), Tensor) and value.dim() == 2
    }
    return replace(found, **{**own, "label_mask": label_mask})
