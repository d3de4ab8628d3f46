"""A small copy of any configuration: few layers, narrow, with the same kinds of layers and of attention.

What a model class does with packed rows does not depend on its size, so it is tried on such a copy. The width of a head
stays, because rotary sections and kernels depend on it; other widths are cut. Where the class refuses that, the copy is
tried again with its own widths.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

VOCABULARY = 320
"""Tokens of a small copy."""

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
_HIDDEN = ("hidden_size", "d_model", "n_embd")
_INNER = (
    "intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "dff", "ffn_hidden_size",
    "dense_intermediate_size", "d_ff", "block_ff_dim",
)  # fmt: skip
_OF_EXPERTS = (
    "moe_intermediate_size", "expert_ffn_hidden_size", "shared_intermediate_size", "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size", "moe_intermediate_dim",
)  # fmt: skip
_EXPERTS = (
    "num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts", "num_routed_experts", "ffn_num_experts",
)  # fmt: skip
_VISITED = ("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts", "experts_top_k")
_GROUPS = ("n_group", "topk_group", "num_expert_group", "topk_groups")
_DENSE = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
_MOST_KINDS = 6

Fields = dict[str, Any]


def small_copies(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Copies of a configuration to try in turn: narrow, then with its own widths, then with its own experts.

    A copy that its configuration class refuses is left out.
    """
    for cuts in ((_layers, _tokens, _experts, _widths), (_layers, _tokens, _experts), (_layers, _tokens), (_layers,)):
        fields = config.to_dict()
        for part in _parts(fields):
            for cut in cuts:
                cut(part)
        try:
            yield type(config).from_dict(fields)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue


def _parts(fields: Fields) -> Iterator[Fields]:
    """The configuration and those nested in it: of a text decoder, a vision tower."""
    yield fields
    for value in list(fields.values()):
        if isinstance(value, dict) and _first(value, (*_LAYERS, *_HIDDEN)):
            yield from _parts(value)


def _first(fields: Fields, names: tuple[str, ...]) -> tuple[str, int] | None:
    """The first of the names that has a positive whole number, with that."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return name, value
    return None


def _cap(fields: Fields, names: tuple[str, ...], most: int) -> None:
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            fields[name] = min(value, most)
        elif isinstance(value, list) and value and all(isinstance(each, int) for each in value):
            fields[name] = [min(each, most) for each in value]


def _kept(fields: Fields, number: int) -> list[int]:
    """The layers that a copy keeps: two, or one of each kind where there are more kinds."""
    lists = [value for value in fields.values() if isinstance(value, list) and len(value) == number > 2]
    own = _by_layer(fields)
    kinds: dict[Any, int] = {}
    for index in reversed(range(number)):  # the last layer stays the last: some classes fix its kind
        kinds.setdefault((*(str(each[index]) for each in lists), str(own.get(index))), index)
    dense = max((fields.get(name) or 0 for name in _DENSE if isinstance(fields.get(name), int)), default=0)
    kept = sorted({*list(kinds.values())[:_MOST_KINDS], *([0, dense] if 0 < dense < number else [])})
    return kept if len(kept) > 1 else sorted({0, *kept})


def _by_layer(fields: Fields) -> dict[int, Any]:
    """What single layers set for themselves; transformers writes their numbers as text with leading zeros."""
    own = fields.get("per_layer_config")
    return {int(index): value for index, value in own.items()} if isinstance(own, dict) else {}


def _layers(fields: Fields) -> None:
    found = _first(fields, _LAYERS)
    if found is None:
        return
    number, kept = found[1], _kept(fields, found[1])
    for name, value in list(fields.items()):
        if isinstance(value, list) and len(value) == number > 2:
            fields[name] = [value[index] for index in kept]
    for name in (*_LAYERS, "encoder_layers", "max_window_layers"):
        if isinstance(fields.get(name), int) and fields[name] > len(kept):
            fields[name] = len(kept)
    _cap(fields, _DENSE, 1)
    if fields.get("num_kv_shared_layers"):
        fields["num_kv_shared_layers"] = 0
    if own := _by_layer(fields):
        fields["per_layer_config"] = {at: own[index] for at, index in enumerate(kept) if index in own}


def _tokens(fields: Fields) -> None:
    _cap(fields, ("vocab_size", "vocab_size_per_layer_input"), VOCABULARY)
    for name, value in list(fields.items()):
        if not name.endswith(("token_id", "token_index")):
            continue
        if isinstance(value, int) and value >= VOCABULARY:
            fields[name] = 3
        elif isinstance(value, list) and any(isinstance(each, int) and each >= VOCABULARY for each in value):
            fields[name] = [3]


def _experts(fields: Fields) -> None:
    for config in (fields, *(value for value in fields.values() if isinstance(value, dict))):
        _cap(config, _EXPERTS, 8)
        _cap(config, _VISITED, 2)
        _cap(config, _GROUPS, 1)


def _widths(fields: Fields) -> None:
    _cap(fields, _INNER, 256)
    _cap(fields, _OF_EXPERTS, 64)
    _cap(fields, ("q_lora_rank", "kv_lora_rank"), 32)
    heads, hidden = _first(fields, _HEADS), _first(fields, _HIDDEN)
    if heads is None or hidden is None:
        return
    key = _first(fields, ("num_key_value_heads",))
    group = max(1, heads[1] // key[1]) if key else 1
    new_key = min(heads[1] // group, 4 if group == 1 else 2)
    width = max(1, hidden[1] // heads[1])
    fields[heads[0]] = new_key * min(group, 2)
    fields[hidden[0]] = max(64, width * fields[heads[0]])
    if key:
        fields[key[0]] = new_key
    expand, state = fields.get("mamba_expand"), fields.get("mamba_d_head")
    if fields.get("mamba_n_heads") and expand and isinstance(state, int):
        fields["mamba_n_heads"] = max(1, int(expand * fields[hidden[0]]) // state)
