"""Log-probabilities of tokens under the output head on a CPU: TRL's function of its fused head, with less work.

TRL writes its kernel for GPUs; its stand-in for a CPU multiplies with the head four times where three products do, goes
over each tile some ten times, and scores prompts and padding too. Here:

- A few tokens at a time are scored over the whole vocabulary, in two buffers that are used again for all of them.
- Where the head is frozen, as under an adapter, the derivative of each token's log-probability by its hidden state is
  computed at once, while its probabilities are at hand: (H) numbers a token are kept, no logits, and the backward pass
  is one product with the incoming gradient.
- Where the head is trained, the probabilities are kept for the backward pass if they fit into KEPT_BYTES, else they are
  computed again there.

Everything equals TRL's function up to rounding. Shapes: N labelled tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils

TILE_BYTES = 32 * 2**20
"""Of a buffer for the logits of some tokens, in float32; two are at work. Smaller ones read the head too often."""
KEPT_BYTES = 512 * 2**20
"""Of the probabilities that a trained head keeps for its backward pass; more are computed again there."""
_trl_compacts = utils._use_triton


def install() -> None:
    """Let the fused heads of this process score labelled tokens alone on a CPU, by `TokenLogProbs`."""
    utils._ChunkedLogProbFunction = TokenLogProbs
    utils._use_triton = lambda device: device.type == "cpu" or _trl_compacts(device)


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """What stands between the product with the head and the logits: z = softcap · tanh(scale · y / softcap) / T."""

    scale: float
    softcap: float | None
    inverse_temperature: float

    def logits_(self, tile: Tensor) -> tuple[Tensor, Tensor | float]:
        """The logits of a tile, in its place, and their derivative by the product."""
        slope = self.scale * self.inverse_temperature
        if self.softcap is None:
            return (tile if slope == 1.0 else tile.mul_(slope)), slope
        bent = tile.mul_(self.scale / self.softcap).tanh_()
        derivative = (1 - bent * bent).mul_(slope)
        return bent.mul_(self.softcap * self.inverse_temperature), derivative


class TokenLogProbs(ChunkedLogProbFunction):
    """As its parent, which it is on every device but a CPU."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        final_logit_softcapping: float | None = None,
        logit_scale: float = 1.0,
        outputs: tuple[str, ...] = (),
    ) -> Any:
        """The statistics of each token that `outputs` names, in the parent's order; None where it is not named."""
        if hidden.device.type != "cpu":
            further = (temperature, chunk_size, final_logit_softcapping, logit_scale, outputs)
            return ChunkedLogProbFunction.forward(ctx, hidden, weight, bias, targets, *further)
        ctx.set_materialize_grads(False)
        scale = _Scale(scale=logit_scale, softcap=final_logit_softcapping, inverse_temperature=1 / temperature)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
        trains_hidden, trains_weight, trains_bias = ctx.needs_input_grad[:3]
        frozen = trains_hidden and not (trains_weight or trains_bias)
        fits = len(hidden) * len(weight) * dtype.itemsize <= KEPT_BYTES
        keeps = trains_hidden and not frozen and fits and scale.softcap is None
        derivatives = torch.zeros(hidden.shape, dtype=torch.float32) if frozen else None
        kept = torch.empty(len(hidden), len(weight), dtype=dtype) if keeps else None

        found = {name: torch.zeros(len(hidden)) for name in ("log_probs", *outputs)}
        head = weight.to(dtype)
        for part, tile, spare in _tiles(hidden, head, bias):
            logits, slope = scale.logits_(tile)
            probs = _statistics(found, part, logits, targets[part], spare, needs_probs=frozen or keeps)
            if kept is not None:
                kept[part] = probs
            if derivatives is not None:
                derivatives[part] = _of_logits(probs, targets[part], slope).to(dtype) @ head
        ctx.on_cpu = (scale, dtype, derivatives, kept)
        ctx.save_for_backward(hidden, weight, bias, targets, found.get("entropy"))
        if (top := found.get("is_top1")) is not None:
            found["is_top1"] = top.bool()
        fixed = ("log_sum_sq_probs", "mean_logits", "is_top1")
        ctx.mark_non_differentiable(*(found[name] for name in fixed if name in found))
        return tuple(found.get(name) for name in ("log_probs", "entropy", *fixed))

    @staticmethod
    def backward(ctx: Any, grad_log_probs: Tensor | None, grad_entropy: Tensor | None = None, *fixed: Any) -> Any:
        """The gradients of hidden states, weight and bias."""
        if not hasattr(ctx, "on_cpu"):
            return ChunkedLogProbFunction.backward(ctx, grad_log_probs, grad_entropy, *fixed)
        hidden, weight, bias, targets, entropy = ctx.saved_tensors
        scale, dtype, derivatives, kept = ctx.on_cpu
        nothing = (None,) * 6
        if grad_log_probs is None and grad_entropy is None:
            return (None, None, None, *nothing)
        if derivatives is not None and grad_entropy is None:
            assert grad_log_probs is not None
            return ((derivatives * grad_log_probs[:, None]).to(hidden.dtype), None, None, *nothing)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        with utils.maybe_gather_lm_head_ctx(weight, bias):
            head = weight.to(dtype)
            of_hidden = torch.zeros(hidden.shape, dtype=torch.float32) if needs_hidden else None
            of_weight = torch.zeros(weight.shape, dtype=torch.float32) if needs_weight else None
            of_bias = torch.zeros(len(weight), dtype=torch.float32) if needs_bias else None
            for part, probs, log_probs, slope in _again(hidden, head, bias, scale, kept, grad_entropy is not None):
                gradient = torch.zeros_like(probs) if log_probs is not None else None
                if gradient is not None:  # d entropy / dz = −p (log p + entropy)
                    gradient -= grad_entropy[part, None] * probs * (log_probs + entropy[part, None])  # type: ignore[index]
                    gradient *= slope
                if grad_log_probs is not None:
                    own = _of_logits(probs, targets[part], slope).mul_(grad_log_probs[part, None])
                    gradient = own if gradient is None else gradient.add_(own)
                assert gradient is not None
                low = gradient.to(dtype)
                if of_hidden is not None:
                    of_hidden[part] = low @ head
                if of_weight is not None:
                    of_weight.addmm_(low.t().float(), hidden[part].float())
                if of_bias is not None:
                    of_bias += low.sum(0, dtype=torch.float32)
        given = ((of_hidden, hidden), (of_weight, weight), (of_bias, bias))
        return (*(None if own is None else own.to(of.dtype) for own, of in given), *nothing)


def _tiles(hidden: Tensor, head: Tensor, bias: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The products of some tokens at a time with the head, in float32, each with a buffer of its shape."""
    at_once = min(len(hidden), max(1, TILE_BYTES // (4 * len(head))))
    buffers = torch.empty(2, at_once, len(head), dtype=torch.float32)
    for start in range(0, len(hidden), at_once or 1):
        part = slice(start, min(start + at_once, len(hidden)))
        tile, spare = buffers[:, : part.stop - part.start]
        states = hidden[part].to(head.dtype)
        if head.dtype == torch.float32:
            torch.mm(states, head.t(), out=tile)
        else:
            tile.copy_(states @ head.t())
        yield part, tile if bias is None else tile.add_(bias), spare


def _statistics(
    found: dict[str, Tensor], part: slice, logits: Tensor, targets: Tensor, spare: Tensor, *, needs_probs: bool
) -> Tensor:
    """Write what is wanted of some tokens; their probabilities, where they are needed, overwrite the logits."""
    at = targets[:, None]
    if "mean_logits" in found:
        found["mean_logits"][part] = logits.mean(-1)
    log_probs = torch.log_softmax(logits, -1, out=spare)  # type: ignore[call-overload]
    found["log_probs"][part] = log_probs.gather(-1, at)[:, 0]
    if "is_top1" in found:
        found["is_top1"][part] = (log_probs.argmax(-1) == targets).float()
    if "log_sum_sq_probs" in found:
        found["log_sum_sq_probs"][part] = (2 * log_probs).logsumexp(-1)
    if not (needs_probs or "entropy" in found):
        return log_probs
    probs = torch.exp(log_probs, out=logits)
    if "entropy" in found:
        found["entropy"][part] = -torch.bmm(probs[:, None], log_probs[:, :, None]).flatten()
    return probs


def _of_logits(probs: Tensor, targets: Tensor, slope: Tensor | float) -> Tensor:
    """The derivative of the log-probabilities of the targets by the products with the head, in place of `probs`."""
    own = probs.neg_()
    own.scatter_add_(1, targets[:, None], torch.ones(len(targets), 1, dtype=own.dtype))
    return own if isinstance(slope, float) and slope == 1.0 else own.mul_(slope)


def _again(
    hidden: Tensor, head: Tensor, bias: Tensor | None, scale: _Scale, kept: Tensor | None, with_logs: bool
) -> Iterator[tuple[slice, Tensor, Tensor | None, Tensor | float]]:
    """Probabilities, on demand their logarithms, and the slope, of some tokens at a time: those kept, else anew."""
    if kept is not None and not with_logs:
        at_once = max(1, TILE_BYTES // (4 * len(head)))
        slope = scale.scale * scale.inverse_temperature
        for start in range(0, len(hidden), at_once):
            part = slice(start, start + at_once)
            yield part, kept[part].to(torch.float32, copy=True), None, slope
        return
    for part, tile, spare in _tiles(hidden, head, bias):
        logits, bend = scale.logits_(tile)
        log_probs = torch.log_softmax(logits, -1, out=spare)  # type: ignore[call-overload]
        yield part, torch.exp(log_probs, out=logits), log_probs if with_logs else None, bend
