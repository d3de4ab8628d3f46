"""Whether a model class trains packed rows as it trains them apart: tried on a small random copy, not looked up.

The documents go through the model once as one packed row, whose positions restart at each, and once one by one. Loss
and gradients must agree, up to rounding in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ftcli.worker.models.text_models import taken_config
from ftcli.worker.models.two_layers import small_copies

TOLERANCE = 5e-5
"""Relative difference of the gradients: float32 leaves 1e-5 at most, a short convolution that leaks 8e-4."""
MOST_ELEMENTS = 4 * 10**8
"""Elements of the largest copy that is tried: 1.6 GB of float32, and its gradients."""
_LENGTHS = (7, 5, 11, 1, 9)
_TOKENS = 250  # models of bytes know 260 tokens
_WITH_POSITIONS = "ftcli_sees_positions"


class Trial(NamedTuple):
    """What a trial showed."""

    exact: bool
    why: str
    passes_positions: bool = False
    """Whether the positions reach the attention kernel."""


def documents() -> list[list[int]]:
    """Random documents of different lengths, one of a single token."""
    draw = torch.Generator().manual_seed(7)
    return [torch.randint(5, _TOKENS, (length,), generator=draw).tolist() for length in _LENGTHS]


def small_model(config: PreTrainedConfig) -> Any:
    """A random model of the class, a few layers high, in evaluation mode and float32.

    Raises:
        ValueError: none can be built; with the reason.
    """
    reason = "no small copy of it could be configured"
    for small in small_copies(taken_config(config)):
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in AutoModelForCausalLM.from_config(small).parameters())
            if size > MOST_ELEMENTS:
                reason = f"its smallest copy has {size / 1e9:.1f} billion parameters"
                continue
            if hasattr(small.get_text_config(), "output_router_logits"):
                # The loss of a router is a mean over the batch; it is not what a trial of the documents is about.
                small.get_text_config().output_router_logits = False
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(small, dtype=torch.float32).eval()
            with torch.no_grad():
                model(input_ids=torch.tensor([documents()[0]]), use_cache=False)
        except Exception as error:  # any class of any version: whatever it raises, this copy is not usable
            reason = _short(error)
        else:
            return model
    raise ValueError(reason)


def trial_of(model: Any) -> Trial:
    """Compare packed with separate documents in a small model."""
    rows = documents()
    try:
        apart = _gradients(model, [_called(model, [row]) for row in rows if len(row) > 1], rows)
        together = _gradients(model, [_called(model, rows)], rows)
    except Exception as error:  # the class may refuse positions, or need other inputs
        return Trial(False, f"it cannot be called with packed rows: {_short(error)}")
    difference, loss = _relative(together[1], apart[1]), abs(together[0] - apart[0]) / max(1e-9, abs(apart[0]))
    if not difference < TOLERANCE or not loss < TOLERANCE:
        return Trial(False, f"packed documents see each other (gradients differ by {difference:.0e})")
    return Trial(True, f"packed and separate rows gave the same gradients (to {difference:.0e})", _sees(model, rows))


def _called(model: Any, rows: Sequence[Sequence[int]]) -> tuple[Tensor, int]:
    """The summed loss of documents in one packed row, and the number of predicted tokens."""
    ids = torch.tensor([[token for row in rows for token in row]])
    positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
    labels = ids.masked_fill(positions == 0, -100)
    count = int((labels != -100).sum())
    more = {"position_ids": positions} if len(rows) > 1 else {}
    return model(input_ids=ids, labels=labels, use_cache=False, **more).loss * count, count


def _gradients(model: Any, losses: Sequence[tuple[Tensor, int]], rows: Sequence[Any]) -> tuple[float, list[Tensor]]:
    """The mean loss of a token, and every gradient of it."""
    model.zero_grad()
    loss = sum(each for each, _ in losses) / sum(count for _, count in losses)
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    empty = torch.zeros(())
    return loss.item(), [empty if p.grad is None else p.grad.clone() for p in model.parameters()]


def _relative(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Norm of the difference of all gradients, relative to their norm."""
    off = sum(float((a - b).double().square().sum()) for a, b in zip(found, wanted, strict=True))
    size = sum(float(b.double().square().sum()) for b in wanted)
    return float((off / size) ** 0.5) if size else float("nan")


def _sees(model: Any, rows: Sequence[Sequence[int]]) -> bool:
    """Whether the model's layers pass the positions on to their attention kernel, as flash attention needs."""
    seen: list[bool] = []

    def attention(*given: Any, **named: Any) -> Any:
        seen.append(named.get("position_ids") is not None)
        return sdpa_attention_forward(*given, **named)

    AttentionInterface.register(_WITH_POSITIONS, attention)
    AttentionMaskInterface.register(_WITH_POSITIONS, sdpa_mask)
    try:
        model.set_attn_implementation(_WITH_POSITIONS)
        with torch.no_grad():
            _called(model, rows)
    except Exception:  # the class has no interchangeable attention
        return False
    return bool(seen) and all(seen)


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
