"""Bytes that a model takes while it samples: keys and values of all answers that are generated together."""

from __future__ import annotations

from dataclasses import dataclass

from ftcli.models.shape import Shape
from ftcli.plan.activations import LOGITS_FP32_COPIES, feed_forward_width


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Answers that one process generates together."""

    answers: int
    prompt_length: int
    """Tokens of the longest prompt."""
    answer_length: int
    """Tokens of the longest answer."""
    compute_bytes: int = 2


def key_value_bytes(shape: Shape, compute_bytes: int) -> int:
    """Bytes that one token's keys and values take over all layers, as transformers caches them."""
    latent = shape.latent_attention
    if latent is None:
        width = 2 * shape.num_key_value_heads * shape.head_dim
    else:  # transformers caches them after they are expanded to all heads
        width = shape.num_attention_heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim + latent.v_head_dim)
    return shape.num_hidden_layers * width * compute_bytes


def cache_bytes(shape: Shape, how: Sampling) -> float:
    """Bytes of the cache when all answers are at their end, and of one layer's part, which is copied to grow."""
    whole = how.answers * (how.prompt_length + how.answer_length) * key_value_bytes(shape, how.compute_bytes)
    return whole * (1 + 1 / max(1, shape.num_hidden_layers))


def pass_bytes(shape: Shape, how: Sampling) -> float:
    """Bytes of one forward pass without gradients: the widest tensors of a layer over all prompts, or the logits of the
    next tokens, whichever is more."""
    inner = (
        how.answers * how.prompt_length * how.compute_bytes * (3 * feed_forward_width(shape) + 2 * shape.hidden_size)
    )
    logits = how.answers * shape.vocab_size * (how.compute_bytes + 4 * LOGITS_FP32_COPIES)
    return float(max(inner, logits))
