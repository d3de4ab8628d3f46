"""Generation that computes a prompt once for all of its answers, and stops computing for those that have ended.

transformers' generate goes on with the whole batch until its longest answer ends, so that one answer in a hundred that
runs to the limit costs as much as a hundred. Here a batch is generated in stretches of STRETCH tokens, with the cache
of keys and values kept in between, and rows whose answer has ended leave the batch. What the cache holds of a prompt is
computed once where several rows have the same. Every answer has the distribution that it has under generate; the random
numbers that a row gets are others once a row has left, unless they are fixed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

from ftcli.worker.process import interruption
from ftcli.worker.tokenise.special_tokens import end_ids

STRETCH = 16
"""New tokens between two looks at which answers have ended."""
WORTH_COPYING = 1 / 8
"""Share of the batch that has to have ended before the cache of the others is copied."""
_KNOWN = {
    *("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens"),
    *("eos_token_id", "pad_token_id", "bos_token_id", "use_cache", "disable_compile", "_from_model_config"),
    *("transformers_version", "output_attentions", "output_hidden_states", "output_scores"),
}
"""Settings that mean the same at every new token; others may count from the end of the prompt."""
Left = Callable[[Sequence[int]], None]
"""Is told, when rows have left the batch, which are left of those that there were."""


def generate(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    how: GenerationConfig,
    *,
    left: Left | None = None,
    **more: Any,
) -> Tensor:
    """What `model.generate` returns: prompts and answers, answers padded on the right.

    Args:
        input_ids: prompts, padded on the left, (rows, tokens).
        attention_mask: 0 at the padding, (rows, tokens).
        more: further arguments of `model.generate`; with any, the batch stays whole.
    """
    same = _same_prompts(input_ids, attention_mask)
    cache = None if more or not (same is not None or (how.max_new_tokens or 0) > STRETCH) else _cache(model, how)
    if cache is None:
        return model.generate(input_ids=input_ids, attention_mask=attention_mask, generation_config=how, **more)
    ends = torch.tensor(_ends(model, how), device=input_ids.device)
    pad = how.pad_token_id if how.pad_token_id is not None else int(ends[0])
    rows, prompt = input_ids.shape
    found = input_ids.new_full((rows, prompt + how.max_new_tokens), pad)
    found[:, :prompt] = input_ids
    if same is not None:
        _fill(cache, model, input_ids, attention_mask, how, same)
    there, ids, longest = torch.arange(rows, device=input_ids.device), input_ids, prompt
    while len(there) and longest < found.size(1):
        interruption.reached(longest - prompt, how.max_new_tokens, "tokens")
        stretch = copy.deepcopy(how)
        stretch.max_new_tokens = min(STRETCH, found.size(1) - longest)
        ids = model.generate(
            input_ids=ids, attention_mask=attention_mask, generation_config=stretch, past_key_values=cache
        )
        found[there, longest : ids.size(1)] = ids[:, longest:]
        running = ~torch.isin(ids[:, longest:], ends).any(dim=1)
        attention_mask = torch.nn.functional.pad(attention_mask, (0, ids.size(1) - longest), value=1)
        longest = ids.size(1)
        if not running.any():
            break
        kept = running.nonzero().squeeze(1)
        if len(kept) <= (1 - WORTH_COPYING) * len(there):
            cache.batch_select_indices(kept)
            there, ids, attention_mask = there[kept], ids[kept], attention_mask[kept]
            if left is not None:
                left(kept.tolist())
    return found[:, :longest]


class _Same(NamedTuple):
    """Rows with one prompt."""

    first: Tensor
    """A row of each prompt, (prompts,)."""
    prompt_of: Tensor
    """The place in `first` of each row's prompt, (rows,)."""


def _same_prompts(input_ids: Tensor, attention_mask: Tensor) -> _Same | None:
    """Which rows have one prompt; None where all differ, or where one is too short to be computed before its end."""
    rows = torch.cat([input_ids, attention_mask], dim=1)
    prompts, prompt_of = torch.unique(rows, dim=0, return_inverse=True)
    if len(prompts) == len(rows) or input_ids.size(1) < 2 or not bool(attention_mask[:, -2].all()):
        return None
    places = torch.arange(len(rows), device=rows.device)
    first = torch.full((len(prompts),), len(rows), device=rows.device).scatter_reduce(0, prompt_of, places, "amin")
    return _Same(first, prompt_of)


def _fill(
    cache: DynamicCache, model: Any, input_ids: Tensor, attention_mask: Tensor, how: GenerationConfig, same: _Same
) -> None:
    """Let a cache hold all of the prompts but their last token, each of them computed once."""
    once = copy.deepcopy(how)
    # The token is not used; it takes no random number.
    once.max_new_tokens, once.do_sample = 1, False
    ids, mask = input_ids[same.first, :-1], attention_mask[same.first, :-1]
    model.generate(input_ids=ids, attention_mask=mask, generation_config=once, past_key_values=cache)
    cache.batch_select_indices(same.prompt_of)


@contextmanager
def shrinking(model: Any, left: Left | None = None) -> Iterator[None]:
    """Let `model.generate` work as above, for a library's code that calls it."""

    def through(input_ids: Tensor, attention_mask: Tensor, generation_config: Any, **more: Any) -> Tensor:
        del model.generate
        try:
            return generate(model, input_ids, attention_mask, generation_config, left=left, **more)
        finally:
            model.generate = through

    model.generate = through
    try:
        yield
    finally:
        del model.generate


def _cache(model: Any, how: GenerationConfig) -> DynamicCache | None:
    """An empty cache whose rows can be taken out, or None where a batch has to stay whole.

    That is so under settings that count tokens from the end of the prompt, under prompts and prefixes that are learned,
    which stand in the cache, for layers without keys and values, and where processes have to make the same passes.
    """
    set_by_hand = {name for name, value in how.to_diff_dict().items() if value is not None}
    learned = any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values())
    together = torch.distributed.is_initialized() and (is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model))
    if not how.max_new_tokens or set_by_hand - _KNOWN or learned or together or not _ends(model, how):
        return None
    caches = how.use_cache if how.use_cache is not None else model.generation_config.use_cache
    if caches is False or not _base(model)._supports_default_dynamic_cache():
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    can_leave = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    return cache if can_leave else None


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _ends(model: Any, how: GenerationConfig) -> list[int]:
    return end_ids(how if how.eos_token_id is not None else model.generation_config)
