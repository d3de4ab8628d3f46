"""A small copy of any configuration: few layers, narrow, with the same kinds of layers and of attention.

What a model class does with packed rows does not depend on its size, so it is tried on such a copy. The width of a head
stays, because rotary sections and kernels depend on it; other widths are cut. Where the class refuses that, the copy is
tried again with its own widths.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ftcli.models.families import NUM_EXPERTS, VISITED

VOCABULARY = 320
"""Tokens of a small copy."""

_LAYERS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers", "num_blocks",
)  # fmt: skip
_OTHER_LAYERS = ("encoder_layers", "num_encoder_layers", "max_window_layers", "num_layers_per_stack")
_HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "num_decoder_attention_heads",
)  # fmt: skip
_HIDDEN = ("hidden_size", "d_model", "n_embd", "emb_dim")
_AS_WIDE = ("embedding_dim", "lru_width", "attention_hidden_size")
"""Widths that are cut with the hidden size where they are a multiple of it."""
_LINEAR_HEADS = ("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads")
_NARROW = 256
"""Hidden size of a copy of a model without heads."""
_INNER = (
    "intermediate_size", "intermediate_size_mlp", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "dff",
    "ffn_hidden_size", "dense_intermediate_size", "d_ff", "dim_ff", "block_ff_dim",
)  # fmt: skip
_OF_EXPERTS = (
    "moe_intermediate_size", "expert_ffn_hidden_size", "shared_intermediate_size", "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size", "moe_intermediate_dim",
)  # fmt: skip
_EXPERTS = (*NUM_EXPERTS, "ffn_num_experts", "zero_expert_num")
_GROUPS = ("n_group", "topk_group", "num_expert_group", "topk_groups")
_DENSE = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
_RANKS = ("q_lora_rank", "kv_lora_rank")
_MOST_KINDS = 6
_CHUNKS = ("chunk_size", "mamba_chunk_size")
"""Tokens that a state space computes at once; a shorter sequence is padded to so many."""
_MOST_HIDDEN = 1024
"""Hidden size of a copy, unless two heads are wider."""

Fields = dict[str, Any]


def small_copies(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Copies of a configuration to try in turn: narrow, with two layers of each kind (some classes share the weights of
    one kind), then with its own widths, then with its own experts.

    A copy that its configuration class refuses is left out.
    """
    narrow = (_tokens, _experts, _widths)
    twice = partial(_layers, each=2)
    tries = ((_layers, *narrow), (twice, *narrow), (_layers, _tokens, _experts), (_layers, _tokens), (_layers,))
    for cuts in tries:
        fields = config.to_dict()
        for part in _parts(fields):
            for cut in cuts:
                cut(part)
        _join(fields)
        try:
            yield type(config).from_dict(fields)
        except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError):
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


def _kept(fields: Fields, number: int, each: int) -> list[int]:
    """The layers that a copy keeps: two, or `each` of each kind where there are more kinds."""
    numbered = _numbered(fields, number)
    lists = [
        value
        for name, value in fields.items()
        if isinstance(value, list) and len(value) == number > 2 and name not in numbered
    ]
    own = _by_layer(fields)
    kinds: dict[Any, list[int]] = {}
    for index in reversed(range(number)):  # the last layer stays the last: some classes fix its kind
        kind = (*(str(value[index]) for value in lists), *(index in fields[name] for name in numbered))
        kinds.setdefault((*kind, str(own.get(index))), []).append(index)
    dense = max((fields.get(name) or 0 for name in _DENSE if isinstance(fields.get(name), int)), default=0)
    chosen = [index for layers in list(kinds.values())[:_MOST_KINDS] for index in layers[:each]]
    kept = sorted({*chosen, *([0, dense] if 0 < dense < number else [])})
    return kept if len(kept) > 1 else sorted({0, *kept})


def _numbered(fields: Fields, number: int) -> list[str]:
    """Fields that list layers by their numbers, such as the layers with experts."""
    return [
        name
        for name, value in fields.items()
        if name.endswith(("_layers", "_indices", "_layer_ids"))
        and isinstance(value, list)
        and value
        and all(isinstance(each, int) for each in value)
        and value == sorted(set(value))
        and 0 <= value[0] <= value[-1] < number
    ]


def _by_layer(fields: Fields) -> dict[int, Any]:
    """What single layers set for themselves; transformers writes their numbers as text with leading zeros."""
    own = fields.get("per_layer_config")
    return {int(index): value for index, value in own.items()} if isinstance(own, dict) else {}


def _layers(fields: Fields, each: int = 1) -> None:
    found = _first(fields, _LAYERS)
    if found is None:
        return
    number, kept = found[1], _kept(fields, found[1], each)
    numbered = _numbered(fields, number)
    for name, value in list(fields.items()):
        if name in numbered:
            fields[name] = [at for at, index in enumerate(kept) if index in value]
        elif isinstance(value, list) and len(value) == number > 2:
            fields[name] = [value[index] for index in kept]
    for name in (*_LAYERS, *_OTHER_LAYERS):
        if isinstance(fields.get(name), int) and fields[name] > len(kept):
            fields[name] = len(kept)
    _cap(fields, _DENSE, 1)
    if fields.get("num_kv_shared_layers"):
        fields["num_kv_shared_layers"] = 0
    if own := _by_layer(fields):
        fields["per_layer_config"] = {at: own[index] for at, index in enumerate(kept) if index in own}


def _tokens(fields: Fields) -> None:
    vocabularies = [name for name in fields if name.endswith(("vocab_size", "vocab_size_per_layer_input"))]
    _cap(fields, (*vocabularies, "encoder_hash_byte_group_vocab"), VOCABULARY)
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
        _cap(config, VISITED, 2)
        _cap(config, _GROUPS, 1)


def _widths(fields: Fields) -> None:
    _cap(fields, _INNER, 256)
    _cap(fields, _OF_EXPERTS, 64)
    _cap(fields, _RANKS, 32)
    _cap(fields, _CHUNKS, 16)
    _linear_heads(fields)
    heads, hidden = _first(fields, _HEADS), _first(fields, _HIDDEN)
    if hidden is None:
        return
    if heads is None:
        _set_hidden(fields, hidden, min(hidden[1], _NARROW))
        return
    key = _first(fields, ("num_key_value_heads",))
    group = max(1, heads[1] // key[1]) if key else 1
    width = max(1, hidden[1] // heads[1])
    new_key = min(heads[1] // group, 2 if group > 1 or 4 * width > _MOST_HIDDEN else 4)
    fields[heads[0]] = new_key * min(group, 2)
    _set_hidden(fields, hidden, max(64, width * fields[heads[0]]))
    if key:
        fields[key[0]] = new_key
    for part in (value for value in fields.values() if isinstance(value, dict)):
        _cap(part, ("kv_n_heads",), new_key)
    for own in _by_layer(fields).values():
        _cap(own, _RANKS, 32)
        _cap(own, _HEADS, fields[heads[0]])
        _cap(own, ("num_key_value_heads",), new_key)
    _mamba_heads(fields, heads[0], hidden[0])


def _mamba_heads(fields: Fields, heads: str, hidden: str) -> None:
    """As many heads of a state space as its inner width holds, and no more groups than heads."""
    expand, state = fields.get("mamba_expand"), fields.get("mamba_d_head")
    if fields.get("mamba_n_heads") and expand and isinstance(state, int):
        fields["mamba_n_heads"] = max(1, int(expand * fields[hidden]) // state)
    if isinstance(fields.get("mamba_headdim"), int) and fields.get("n_mamba_heads") and expand:
        fields["mamba_headdim"] = max(1, int(expand * fields[hidden]) // fields["n_mamba_heads"])
    _cap(fields, ("mamba_num_heads",), 8)
    _cap(fields, ("n_groups",), fields.get("mamba_num_heads") or fields[heads])


def _set_hidden(fields: Fields, hidden: tuple[str, int], new: int) -> None:
    for name in _AS_WIDE:
        width = fields.get(name)
        if isinstance(width, int) and width > 0 and width % hidden[1] == 0:
            fields[name] = width // hidden[1] * new
    fields[hidden[0]] = new


def _linear_heads(fields: Fields) -> None:
    """Two key heads of linear attention, each with as many value heads as before."""
    numbers = [fields[name] for name in _LINEAR_HEADS if isinstance(fields.get(name), int) and fields[name] > 0]
    for name in _LINEAR_HEADS:
        if isinstance(fields.get(name), int) and fields[name] > 0:
            fields[name] = max(1, 2 * fields[name] // min(numbers))


def _join(fields: Fields) -> None:
    """Widths at which one part of a configuration takes what another one gives."""
    whole = fields.get("global_config")
    if isinstance(whole, dict) and isinstance(whole.get("hidden_size"), int):
        for part in _parts(fields):
            if "hidden_size_global" in part:
                part["hidden_size_global"] = whole["hidden_size"]
