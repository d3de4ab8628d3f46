"""Bytes that a training step keeps for its backward pass: activations, attention masks, and logits.

Activations are those that transformers 5.23 saves, and torch.compile's partitioner where the model is compiled (tests
measure both with saved-tensor hooks on small models).
"""

from __future__ import annotations

from dataclasses import dataclass

from ftcli.models.families import FAMILIES, FOUR_NORMS, Family
from ftcli.models.shape import Shape

# Tile of TRL's fused output head (trl/kernels/chunked_logprob.py and trl/trainer/utils.py, 1.16).
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
# Of the head for a CPU (ftcli/worker/trainers/cpu_head.py): one of its two buffers, and the most that it keeps.
CPU_TILE_BYTES, CPU_KEPT_BYTES = 32 * 2**20, 512 * 2**20
# Materialised logits: beside the model's own, an fp32 copy, its log-softmax and its gradient are alive at once.
LOGITS_FP32_COPIES = 3


@dataclass(frozen=True, kw_only=True)
class Pass:
    """How a model computes one forward and backward pass."""

    rows: int
    """Sequences in one forward pass: twice the pairs for a preference method."""
    length: int
    """Tokens of the longest of them."""
    compute_bytes: int = 2
    """2 under bf16 or fp16, 4 under fp32."""
    checkpointing: bool = True
    attention: str = "sdpa"
    masked: bool = False
    """Whether sdpa is given a dense mask, since rows are padded or packed. It then has no flash kernel, and
    transformers repeats keys and values for every query head (`use_gqa_in_sdpa`)."""
    compiled: bool = False
    whole_logits: bool = False
    """False for TRL's SFT and DPO, which fuse the output head with the loss."""
    on_cpu: bool = False
    """Whether the fused head is the one for a CPU (ftcli/worker/trainers/cpu_head.py)."""

    @property
    def tokens(self) -> int:
        """Tokens of one forward pass, padding included."""
        return self.rows * self.length


def activation_bytes(shape: Shape, how: Pass, *, adapter: bool, casts: bool) -> float:
    """Bytes that all layers keep for the backward pass, and the widest tensors of that pass.

    Args:
        casts: whether an adapter's weights are longer than the type that is computed in.
    """
    layer = layer_bytes(shape, how, adapter=adapter, casts=casts)
    # Checkpointing keeps each layer's input and recomputes one layer at a time (arXiv:1604.06174).
    each = how.compute_bytes * shape.hidden_size if how.checkpointing else layer
    # estimate: in the backward pass of a layer, gradients of its two widest tensors and of its input are alive.
    gradients = how.compute_bytes * (2 * feed_forward_width(shape) + shape.hidden_size)
    kept = shape.num_hidden_layers * each + (layer if how.checkpointing else 0) + gradients
    return how.tokens * kept


def layer_bytes(shape: Shape, how: Pass, *, adapter: bool, casts: bool) -> float:
    """Bytes per token that one layer keeps for the backward pass, the attention mask excluded."""
    if how.compiled:
        return _compiled_layer_bytes(shape, how, adapter)
    compute, hidden, heads = how.compute_bytes, shape.hidden_size, shape.num_attention_heads
    query, key, value = _attention_widths(shape, repeated=how.masked and how.attention == "sdpa")
    # fp32 adapters on a half-precision model: each adapted layer keeps its own fp32 cast of its input, and the
    # attention's output is kept as well. Otherwise layers that read the same tensor share one copy.
    copies = adapter and casts
    family = FAMILIES.get(shape.model_type, Family())
    inputs = hidden * (family.num_readers if copies else 2) + query * (2 if copies else 1)
    kept = compute * (inputs + query + key + value) + 4 * heads
    if how.attention == "eager":
        # Keys and values are repeated for every head; scores are kept in fp32 and in compute dtype.
        kept += compute * 2 * (query - key) + heads * how.length * (4 + compute)
    visits = shape.experts.num_experts_per_tok + shape.experts.n_shared_experts if shape.experts else 1
    # Without a gate, the one inner tensor is kept for the activation's backward pass and again as the adapter's cast.
    widths = family.inner_tensors + (copies and family.inner_tensors == 1)
    kept += compute * widths * feed_forward_width(shape)
    # Experts also gather their inputs and scatter their outputs.
    kept += 2 * compute * hidden * visits if visits > 1 else 0
    return kept + _norm_bytes(shape, adapter, compute)


def _compiled_layer_bytes(shape: Shape, how: Pass, adapter: bool) -> float:
    """Bytes per token of a compiled layer: torch.compile recomputes what is cheap (casts, the activation function), and
    keeps what matrix products read."""
    compute, hidden = how.compute_bytes, shape.hidden_size
    family = FAMILIES.get(shape.model_type, Family())
    # Compilation does not know that a mask is empty, so keys and values are always repeated.
    query, key, value = _attention_widths(shape, repeated=how.attention == "sdpa")
    norms = len(family.norms) * (2 * compute * hidden + 4)
    if family.qk_norm:
        # The projections that are normalised, and one fp32 scale a head.
        heads = shape.num_attention_heads + shape.num_key_value_heads
        norms += heads * (compute * shape.head_dim + 4)
    # The attention's output, and what the output projection reads of it.
    attention = compute * (query + key + value + query + (query if adapter else 0)) + 4 * shape.num_attention_heads
    inner = {4: 3, 5: 2}.get(family.inner_tensors, family.inner_tensors)
    return norms + attention + compute * inner * feed_forward_width(shape)


def mask_bytes(shape: Shape, how: Pass) -> float:
    """Bytes of dense attention masks: a shared one in bool, and what sdpa makes of it in the type that it computes in,
    which each layer keeps for its backward pass."""
    if not how.masked or how.attention != "sdpa":
        return 0.0
    # A compiled model makes it once for all layers.
    layers = 1 if how.checkpointing or how.compiled else shape.num_hidden_layers
    return float(how.rows * how.length**2 * (1 + layers * how.compute_bytes))


def _norm_bytes(shape: Shape, adapter: bool, compute_bytes: int) -> float:
    """Bytes per token that a layer's norms keep: each its fp32 input and one fp32 scale, and where its weight trains,
    the normalised values.

    A layer norm is one kernel that recomputes these from its mean and scale; CUDA's autocast runs it in fp32.
    """
    family = FAMILIES.get(shape.model_type, Family())
    if family.has_layer_norms:
        heads = 2 * shape.num_attention_heads if shape.qk_layernorm else 0
        return 4.0 * (len(family.norms) * (shape.hidden_size + 2) + heads * (shape.head_dim + 2))
    # Gemma multiplies by the norm's weight before it casts down from fp32.
    normalised = 0 if adapter else 4 if family.norms == FOUR_NORMS else compute_bytes
    kept = len(family.norms) * (shape.hidden_size * (4 + normalised) + 4)
    if family.qk_norm:
        heads = shape.num_attention_heads + shape.num_key_value_heads
        kept += heads * (shape.head_dim * (4 + normalised) + 4)
    return float(kept)


def _attention_widths(shape: Shape, *, repeated: bool = False) -> tuple[int, int, int]:
    """Elements per token that are kept of queries, keys and values, over all heads.

    Args:
        repeated: whether keys and values are repeated for every query head.
    """
    heads, latent = shape.num_attention_heads, shape.latent_attention
    if latent is not None:
        query = heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
        return query, query, heads * latent.v_head_dim
    query, key = heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    if repeated and query != key:
        return query, query, query
    # Values that are a view of one fused projection keep the whole projection alive.
    fused = shape.family is not None and shape.family.fused
    return query, key, query + 2 * key if fused else key


def feed_forward_width(shape: Shape) -> int:
    """Elements per token of a feed-forward's widest inner tensor, over all experts that the token visits."""
    experts = shape.experts
    if experts is None:
        return shape.intermediate_size
    return experts.intermediate_size * (experts.num_experts_per_tok + experts.n_shared_experts)


def logits_bytes(shape: Shape, how: Pass, *, trains_head: bool) -> float:
    """Bytes of the whole logits with their fp32 copies, or of one tile with the fp32 sums that the fused head keeps."""
    whole = how.tokens * shape.vocab_size * how.compute_bytes
    if how.whole_logits:
        return float(whole + how.tokens * shape.vocab_size * 4 * LOGITS_FP32_COPIES)
    tile = min(how.tokens, TILE_TOKENS) * min(shape.vocab_size, TILE_VOCABULARY) * how.compute_bytes
    if how.on_cpu:
        tile = 2 * min(CPU_TILE_BYTES, whole) + whole * (trains_head and whole <= CPU_KEPT_BYTES)
    return float(tile + 4 * how.tokens * shape.hidden_size + (4 * shape.vocab_size * shape.hidden_size * trains_head))
