"""The modules of each supported architecture by full name, with their sizes.

Transcribed from transformers 5.23's modelling files, because planning must not import torch. Tests compare names, sizes
and order with the installed transformers. A norm is written as a module with one input, so that its weight counts as
1 x width.
"""

from __future__ import annotations

from functools import lru_cache

from ftcli.models.families import FAMILIES, Family, OptSwitches
from ftcli.models.layout import Module
from ftcli.models.shape import Shape


def modules(shape: Shape) -> tuple[Module, ...]:
    """Every parameter-bearing module of a known architecture, in the model's order.

    Raises:
        KeyError: the architecture is unknown (check `shape.known` first).
    """
    return _from_table(shape) if shape.layout is None else shape.layout.modules


@lru_cache(maxsize=32)
def _from_table(shape: Shape) -> tuple[Module, ...]:
    family = FAMILIES[shape.model_type]
    hidden = shape.hidden_size
    if family.builder != "llama":
        return tuple(_BUILDERS[family.builder](shape))
    found = [Module("model.embed_tokens", hidden, shape.vocab_size, "embedding")]
    for index in range(shape.num_hidden_layers):
        layer = f"model.layers.{index}"
        attention = _latent_attention if shape.latent_attention else _attention
        found += attention(shape, family, f"{layer}.self_attn")
        found += _feed_forward(shape, family, f"{layer}.mlp", index)
        found += [Module(f"{layer}.{norm}", 1, hidden, "norm") for norm in family.norms]
    found.append(Module("model.norm", 1, hidden, "norm"))
    found.append(Module("lm_head", hidden, shape.vocab_size, tied=shape.tie_word_embeddings, head=True))
    return tuple(found)


def _attention(shape: Shape, family: Family, path: str) -> list[Module]:
    """Multi-head or grouped-query attention."""
    hidden, head_dim = shape.hidden_size, shape.head_dim
    query, key = shape.num_attention_heads * head_dim, shape.num_key_value_heads * head_dim
    # Grouped-query attention has fewer key and value heads than query heads, so their projections are narrower.
    widths = {"q": (hidden, query), "k": (hidden, key), "v": (hidden, key), "o": (query, hidden)}
    if family.fused:
        widths = {"qkv": (hidden, query + 2 * key), "o": (query, hidden)}
    has_bias = family.always_biased or shape.attention_bias
    found = [
        Module(f"{path}.{name}_proj", *width, bias=has_bias and name in family.biased) for name, width in widths.items()
    ]
    if family.qk_norm:
        found += [Module(f"{path}.{name}", 1, head_dim, "norm") for name in ("q_norm", "k_norm")]
    if shape.model_type == "gpt_oss":  # attention sinks: one learned logit per head, and no module of their own
        found.append(Module(f"{path}.sinks", 1, shape.num_attention_heads, "parameter"))
    return found


def _latent_attention(shape: Shape, family: Family, path: str) -> list[Module]:
    """Queries, keys and values through low ranks; only the projections from the hidden size can have a bias."""
    latent = shape.latent_attention
    assert latent is not None
    hidden, heads, bias = shape.hidden_size, shape.num_attention_heads, shape.attention_bias
    query = heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
    if latent.q_lora_rank is None:
        found = [Module(f"{path}.q_proj", hidden, query)]
    else:
        found = [
            Module(f"{path}.q_a_proj", hidden, latent.q_lora_rank, bias=bias),
            Module(f"{path}.q_a_layernorm", 1, latent.q_lora_rank, "norm"),
            Module(f"{path}.q_b_proj", latent.q_lora_rank, query),
        ]
    # Keys and values share one low-rank projection; the rotary part of the keys bypasses it (the "_with_mqa" suffix).
    expanded = heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    return [
        *found,
        Module(f"{path}.kv_a_proj_with_mqa", hidden, latent.kv_lora_rank + latent.qk_rope_head_dim, bias=bias),
        Module(f"{path}.kv_a_layernorm", 1, latent.kv_lora_rank, "norm"),
        Module(f"{path}.kv_b_proj", latent.kv_lora_rank, expanded),
        Module(f"{path}.o_proj", heads * latent.v_head_dim, hidden, bias=bias),
    ]


def _feed_forward(shape: Shape, family: Family, path: str, layer: int) -> list[Module]:
    """A gated feed-forward, or a router with stacked experts and the shared experts that every token visits."""
    hidden, experts = shape.hidden_size, shape.experts
    bias = family.mlp_bias and shape.mlp_bias
    if experts is None or layer < experts.first_k_dense_replace:
        return _gated(path, hidden, shape.intermediate_size, bias, family.fused)
    width, count = experts.intermediate_size, experts.num_experts
    has_bias = shape.model_type == "gpt_oss"
    router = f"{path}.router" if has_bias else f"{path}.gate"
    found = [
        Module(router, hidden, count, "router", has_bias),
        Module(f"{path}.experts.gate_up_proj", hidden, 2 * width, "experts", has_bias, count),
        Module(f"{path}.experts.down_proj", width, hidden, "experts", has_bias, count),
    ]
    if experts.n_shared_experts:
        found += _gated(f"{path}.shared_experts", hidden, width * experts.n_shared_experts, bias, fused=False)
    return found


def _gated(path: str, hidden: int, width: int, bias: bool, fused: bool) -> list[Module]:
    """A gated feed-forward (SwiGLU or GeGLU) of the given width."""
    inward = {"gate_up": 2 * width} if fused else {"gate": width, "up": width}
    found = [Module(f"{path}.{name}_proj", hidden, size, bias=bias) for name, size in inward.items()]
    return [*found, Module(f"{path}.down_proj", width, hidden, bias=bias)]


def _norm(name: str, width: int) -> Module:
    """A layer norm, which has a bias where the root-mean-square norms of later families have none."""
    return Module(name, 1, width, "norm", bias=True)


def _norms(shape: Shape, layer: str) -> list[Module]:
    """The layer norms of one decoder layer."""
    return [_norm(f"{layer}.{name}", shape.hidden_size) for name in FAMILIES[shape.model_type].norms]


def _phi(shape: Shape) -> list[Module]:
    """Phi-1 to Phi-2: attention and feed-forward side by side behind one norm."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    widths = {"q_proj": (hidden, query), "k_proj": (hidden, key), "v_proj": (hidden, key), "dense": (query, hidden)}
    found = [Module("model.embed_tokens", hidden, shape.vocab_size, "embedding")]
    for index in range(shape.num_hidden_layers):
        layer = f"model.layers.{index}"
        found += [Module(f"{layer}.self_attn.{name}", *width, bias=True) for name, width in widths.items()]
        if shape.qk_layernorm:
            names = ("q_layernorm", "k_layernorm")
            found += [_norm(f"{layer}.self_attn.{name}", hidden // shape.num_attention_heads) for name in names]
        found += [
            Module(f"{layer}.mlp.fc1", hidden, inner, bias=True),
            Module(f"{layer}.mlp.fc2", inner, hidden, bias=True),
        ]
        found += _norms(shape, layer)
    found.append(_norm("model.final_layernorm", hidden))
    return [*found, Module("lm_head", hidden, shape.vocab_size, bias=True, tied=shape.tie_word_embeddings, head=True)]


def _gpt2(shape: Shape) -> list[Module]:
    """GPT-2: learned positions, and projections that are one-wide convolutions with a transposed weight."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    positions = shape.max_position_embeddings or 1024
    # The projections are Conv1D rather than nn.Linear, but have the same elements, so their kind is "linear" too.
    found = [
        Module("transformer.wte", hidden, shape.vocab_size, "embedding"),
        Module("transformer.wpe", hidden, positions, "embedding"),
    ]
    widths = {
        "attn.c_attn": (hidden, 3 * hidden),
        "attn.c_proj": (hidden, hidden),
        "mlp.c_fc": (hidden, inner),
        "mlp.c_proj": (inner, hidden),
    }
    for index in range(shape.num_hidden_layers):
        layer = f"transformer.h.{index}"
        found += [Module(f"{layer}.{name}", *width, bias=True) for name, width in widths.items()]
        found += _norms(shape, layer)
    found.append(_norm("transformer.ln_f", hidden))
    return [*found, Module("lm_head", hidden, shape.vocab_size, tied=shape.tie_word_embeddings, head=True)]


def _opt(shape: Shape) -> list[Module]:
    """OPT, the architecture of GPT-3: separate projections, and learned positions of which the first two are unused."""
    hidden, inner, path = shape.hidden_size, shape.intermediate_size, "model.decoder"
    switches = shape.opt or OptSwitches(word_embed_proj_dim=hidden)
    width, bias = switches.word_embed_proj_dim, switches.enable_bias
    found = [
        Module(f"{path}.embed_tokens", width, shape.vocab_size, "embedding"),
        Module(f"{path}.embed_positions", hidden, (shape.max_position_embeddings or 2048) + 2, "embedding"),
    ]
    # OPT-350m embeds tokens at a smaller width and projects them in and out.
    if width != hidden:
        found += [Module(f"{path}.project_out", hidden, width), Module(f"{path}.project_in", width, hidden)]
    if switches.final_norm:
        found.append(_norm(f"{path}.final_layer_norm", hidden))
    for index in range(shape.num_hidden_layers):
        layer = f"{path}.layers.{index}"
        names = ("k_proj", "v_proj", "q_proj", "out_proj")
        found += [Module(f"{layer}.self_attn.{name}", hidden, hidden, bias=bias) for name in names]
        found += [Module(f"{layer}.fc1", hidden, inner, bias=bias), Module(f"{layer}.fc2", inner, hidden, bias=bias)]
        found += _norms(shape, layer)
    if not switches.layer_norm_elementwise_affine:  # the norms exist, but without parameters
        found = [module for module in found if module.kind != "norm"]
    return [*found, Module("lm_head", width, shape.vocab_size, tied=shape.tie_word_embeddings, head=True)]


_BUILDERS = {"phi": _phi, "gpt2": _gpt2, "opt": _opt}
