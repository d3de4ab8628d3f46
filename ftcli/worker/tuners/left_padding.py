"""Learned prompts next to their row also where the row is padded on the left, as batches of answers are.

PEFT puts the vectors of prompt tuning and P-tuning before the padding: [vectors][padding][row]. The row then lies
farther from its vectors than in training, by as many places as the longest row of the batch is longer, so that an
answer depends on the rows that it is generated with. Here padding and vectors change places, and positions count from
the first vector. The vectors of prefix tuning lie in the cache and stay there; its positions PEFT keeps when it
generates, but not when the answers are scored, as reinforcement learning does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

import torch
from peft import PeftModelForCausalLM
from peft.utils import PeftType
from torch import Tensor

_IN_THE_CACHE = (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)


def after_padding(values: Tensor, padding: Tensor, vectors: int) -> Tensor:
    """[vectors][padding][row] as [padding][vectors][row].

    Args:
        values: (B, V + L) or (B, V + L, width).
        padding: (B,), how many places of each row are padding on the left.
        vectors: V.
    """
    place = torch.arange(values.size(1), device=values.device)[None]
    shift = padding[:, None]
    index = torch.where(place < shift + vectors, place - shift, place)
    index = torch.where(place < shift, place + vectors, index)
    return values.gather(1, index if values.dim() == 2 else index[..., None].expand_as(values))


def moved(inputs: dict[str, Any], vectors: int, *, in_cache: bool, takes_positions: bool) -> dict[str, Any]:
    """Arguments of the base model as PEFT makes them, with padding before the vectors and with positions.

    Args:
        inputs: `attention_mask` over vectors and row, (B, V + L); `inputs_embeds` with the vectors in front, or in a
            later step of generation `input_ids` without them.
        in_cache: the vectors are in the cache, so that only positions are missing.
        takes_positions: the model takes `position_ids`; those with ALiBi count in the mask.
    """
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or bool(mask[:, vectors].all()):
        return inputs
    padding, embeds = mask[:, vectors:].long().argmax(-1), inputs.get("inputs_embeds")
    if not in_cache:
        mask = after_padding(mask, padding, vectors)
        if embeds is not None:
            embeds = after_padding(embeds, padding, vectors)
            inputs = {**inputs, "inputs_embeds": embeds}
    now = (inputs["input_ids"] if embeds is None else embeds).size(1)
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -now:]
    return {**inputs, "attention_mask": mask, **({"position_ids": positions} if takes_positions else {})}


def _moved(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    config = model.active_peft_config
    in_cache = config.peft_type in _IN_THE_CACHE
    takes = "position_ids" in signature(model.base_model.forward).parameters
    return moved(inputs, config.num_virtual_tokens, in_cache=in_cache, takes_positions=takes)


def _forward(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.active_peft_config.is_prompt_learning:
            return original(self, *args, **kwargs)

        def move(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return given, _moved(self, named)

        hook = self.base_model.register_forward_pre_hook(move, with_kwargs=True)
        try:
            return original(self, *args, **kwargs)
        finally:
            hook.remove()

    return forward


def _prepared(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def prepare_inputs_for_generation(self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs, config = original(self, *args, **kwargs), self.active_peft_config
        if not config.is_prompt_learning or config.peft_type in _IN_THE_CACHE:
            return inputs
        return _moved(self, inputs)

    return prepare_inputs_for_generation


def keep_prompts_with_rows() -> None:
    """Change PEFT's causal LM accordingly; calling it twice changes nothing."""
    kind: Any = PeftModelForCausalLM
    if not hasattr(kind, "prompts_with_rows"):
        kind.forward = _forward(kind.forward)
        kind.prepare_inputs_for_generation = _prepared(kind.prepare_inputs_for_generation)
        kind.prompts_with_rows = True
