"""TRL's fused output head: log-probabilities without materialising the logits, where it gives those of the model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from trl.trainer.utils import FusedCausalLMOutput

from ftcli.models.families import NUM_EXPERTS, VISITED

_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2
"""Relative difference of log-probabilities that rounding leaves in float32, and in half precision."""
_EXPERT_NAMES = {"num_experts": NUM_EXPERTS, "num_experts_per_tok": VISITED}


@contextmanager
def replaced(module: ModuleType, **others: Any) -> Iterator[None]:
    """Replace attributes of a module temporarily."""
    own = {name: getattr(module, name) for name in others}
    vars(module).update(others)
    try:
        yield
    finally:
        vars(module).update(own)


def train_by_own_logits(model: Any, agreed: Callable[[Callable[[], bool]], bool] = lambda tried: tried()) -> bool:
    """Compute what the fused head gives from the model's own logits, where it would give something else.

    TRL multiplies the last hidden state with the weight of the output head, and knows some ways of scaling and capping.
    Where a model class has more between them (a layer of BERT's head, the cap of RecurrentGemma), training by that
    would fit logits that the model never gives. This is tried on a few tokens; the logits are then materialised.

    Args:
        agreed: the outcome of a trial for all processes, some of which may have no weights to try.

    Returns:
        Whether the head was replaced.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    forward = getattr(base.forward, "__func__", None)
    if forward is None or forward.__code__.co_name != "_fused_forward" or _is_sharded(base):
        return False
    captured = inspect.getclosurevars(forward).nonlocals
    if agreed(lambda: _agrees(base, float(captured["temperature"]))):
        return False
    base.forward = MethodType(_from_logits(captured), base)
    return True


def _is_sharded(model: Any) -> bool:
    """Whether this process holds only a part of the weights, or none yet."""
    return any(hasattr(parameter, "ds_id") or parameter.is_meta for parameter in model.parameters())


def _agrees(model: Any, temperature: float) -> bool:
    """Whether the fused head gives the log-probabilities of the model's own logits, on a few tokens."""
    ids = torch.arange(3, 9, device=next(model.parameters()).device)[None] % model.config.get_text_config().vocab_size
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            tolerance = _TOLERANCE if logits.dtype == torch.float32 else _HALF_TOLERANCE
            own = (logits.float() / temperature).log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            try:
                fused = model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs.float()
            except Exception:  # the last hidden state is not as wide as the head, or not where TRL looks for it
                return False
    except Exception:  # what the model cannot do, its training will say
        return True
    finally:
        for module, training in modes:
            module.training = training
    return bool((own - fused).abs().max() <= tolerance * (1 + own.abs().max()))


def _from_logits(captured: Mapping[str, Any]) -> Callable[..., Any]:
    """A forward pass as TRL's, whose token statistics are those of the original one's logits."""
    original, outputs = captured["original_forward"], captured["outputs"]
    temperature, text_config = captured["temperature"], captured["text_config"]

    @functools.wraps(original)
    def forward(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head:
            more = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
            return original(*args, **kwargs, **{name: value for name, value in more.items() if value is not None})
        found = original(*args, **{**kwargs, "use_cache": False})
        logits = found.logits if shift_labels is not None else found.logits[:, :-1]
        wanted = shift_labels if shift_labels is not None else labels[:, 1:]  # type: ignore[index]
        mask = wanted != -100
        per_token = _statistics(logits.float() / temperature, wanted.clamp(min=0), mask, outputs)
        loss = -per_token["log_probs"].sum()  # type: ignore[union-attr]
        loss = loss / (mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        balance = getattr(found, "aux_loss", None)
        if balance is None and (routers := getattr(found, "router_logits", None)):
            # Llama 4 gives what its routers say, and no loss of it; TRL's head takes this one.
            experts, visited = text_config.num_experts, text_config.num_experts_per_tok
            balance = load_balancing_loss_func(routers, experts, visited, kwargs.get("attention_mask"))
        if balance is not None:
            loss = loss + getattr(text_config, "router_aux_loss_coef", 0.0) * balance
        return FusedCausalLMOutput(loss=loss, label_mask=mask, aux_loss=balance, **per_token)

    return forward


def _statistics(logits: Tensor, labels: Tensor, mask: Tensor, wanted: Sequence[str]) -> dict[str, Tensor | None]:
    """Statistics of tokens, each of shape (batch, tokens), 0 where nothing is labelled.

    Args:
        logits: (batch, tokens, vocabulary), in float32.
        labels: (batch, tokens).
        mask: (batch, tokens), true where a token is labelled.
        wanted: the fields of TRL's FusedCausalLMOutput to compute, beside log_probs.
    """
    log_probs = logits.log_softmax(-1)
    computed: dict[str, Callable[[], Tensor]] = {
        "log_probs": lambda: log_probs.gather(-1, labels[..., None])[..., 0],
        "entropy": lambda: -(log_probs.exp() * log_probs).sum(-1),
        "log_sum_sq_probs": lambda: (2 * log_probs).logsumexp(-1),
        "mean_logits": lambda: logits.mean(-1),
        "is_top1": lambda: logits.argmax(-1) == labels,
    }
    fields = {"log_probs", *wanted}
    return {name: value().masked_fill(~mask, 0) if name in fields else None for name, value in computed.items()}


def name_experts(config: Any) -> None:
    """Let TRL's loss of the router read the numbers of experts, which some configurations call otherwise.

    A name of the class, so that nothing is added to what is saved.
    """
    text = config.get_text_config()
    for name, others in _EXPERT_NAMES.items():
        own = next((each for each in others if isinstance(getattr(text, each, None), int)), None)
        if own is not None and not hasattr(text, name):
            names = type(text).attribute_map  # which is not followed twice
            type(text).attribute_map = {**names, name: names.get(own, own)}
