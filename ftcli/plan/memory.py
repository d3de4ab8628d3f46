"""Estimates the peak memory of one training process, part by part, from sizes alone.

Activations are those that transformers 5.23 saves for the backward pass (tests measure them with saved-tensor hooks on
small models); what a library allocates beyond that is marked `estimate`. Each process holds the whole model (DDP);
nothing is sharded. The parts are computed in bytes; the result is in GiB of 2**30 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ftcli.models.families import FAMILIES, FOUR_NORMS, Family
from ftcli.models.parameters import linear_modules, num_parameters
from ftcli.models.shape import Shape

GIB = 2**30

DTYPE_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}

# nf4 and fp4: half a byte and one fp32 scale per block of 64 (QLoRA, arXiv:2305.14314, section 3); double quantisation
# keeps the scale in 8 bits and one fp32 per block of 256 scales. int8 has one fp32 scale per row, too little to count.
QUANTISED_BYTES = {
    "nf4": 0.5 + 4 / 64,
    "fp4": 0.5 + 4 / 64,
    "nf4_double": 0.5 + 1 / 64 + 4 / (64 * 256),
    "fp4_double": 0.5 + 1 / 64 + 4 / (64 * 256),
    "int8": 1.0,
}

# bitsandbytes' blockwise states: one byte and one fp32 scale per block of 256 (bitsandbytes/optim/optimizer.py).
EIGHT_BIT = 1 + 4 / 256

# Optimiser → states per parameter, and bytes of each; None keeps them in the parameter's dtype, as torch.optim does.
# Counted from the classes that transformers' Trainer builds with its default arguments. galore and apollo keep their
# states in a low rank; Adam's two full states are an upper bound for them.
OPTIMISERS: dict[str, tuple[int, float | None]] = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused"), (2, None)),
    **dict.fromkeys(("stable_adamw", "schedule_free_adamw", "schedule_free_radam"), (2, None)),
    **dict.fromkeys(("galore_adamw", "galore_adamw_layerwise", "apollo_adamw", "apollo_adamw_layerwise"), (2, None)),
    **dict.fromkeys(("galore_adamw_8bit", "galore_adamw_8bit_layerwise"), (2, EIGHT_BIT)),
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), (2, EIGHT_BIT)),
    **dict.fromkeys(("paged_adamw_32bit", "adamw_anyprecision"), (2, 4.0)),
    **dict.fromkeys(("ademamix", "paged_ademamix_32bit"), (3, 4.0)),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), (3, EIGHT_BIT)),
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_32bit"), (1, 4.0)),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), (1, EIGHT_BIT)),
    **dict.fromkeys(("adagrad", "rmsprop", "schedule_free_sgd"), (1, None)),
    **dict.fromkeys(("sgd", "lomo"), (0, None)),
    "adamw_torch_4bit": (2, 0.5 + 4 / 128),
    "grokadamw": (3, None),
}
# One fp32 number per row and per column in place of one per element (Adafactor, arXiv:1804.04235).
FACTORED = frozenset({"adafactor", "adalomo", "galore_adafactor", "galore_adafactor_layerwise"})

# estimate: driver context, kernels and cuBLAS workspaces of one process on a data-centre GPU.
CUDA_CONTEXT_BYTES = 0.6 * GIB
# estimate: NCCL's channels and buffers, where several processes communicate.
NCCL_BYTES = 0.6 * GIB

# Tile of TRL's fused output head (trl/kernels/chunked_logprob.py and trl/trainer/utils.py, 1.16).
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
# Materialised logits: beside the model's own, an fp32 copy, its log-softmax and its gradient are alive at once.
LOGITS_FP32_COPIES = 3


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Peak memory of one process by part, in GiB."""

    weights_gib: float
    gradients_gib: float
    optimiser_gib: float
    activations_gib: float
    logits_gib: float
    autocast_gib: float
    """Copies of float32 weights in the type that they are computed in. Autocast keeps them in a forward pass, beside
    the gradients that earlier passes have accumulated; without these, the gradients to come take more."""
    reference_gib: float
    other_models_gib: float
    """A reward model, and a value network with its gradients and optimiser states."""
    start_gib: float = 0.0
    """What looking at rows before the run takes beyond training itself, for adapters that start from them."""
    cuda_context_gib: float

    @property
    def total_gib(self) -> float:
        """Sum of all parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """GiB of each part by name, in the order of declaration."""
        return {f.name.removesuffix("_gib"): getattr(self, f.name) for f in fields(self)}


def weight_bytes(
    shape: Shape | None, dtype: str = "bfloat16", quantisation: str = "none", packed: float | None = None
) -> float:
    """Mean bytes per parameter of the base weights; `packed` are those of a weight in a layer stored quantised.

    bitsandbytes packs the linear layers only, so embeddings, norms, stacked experts and the output head stay in
    `dtype`. Without a known shape, all weights count as packed.

    Raises:
        KeyError: `dtype` or `quantisation` is not listed in DTYPE_BYTES or QUANTISED_BYTES.
    """
    plain = DTYPE_BYTES[dtype]
    if packed is None:
        if quantisation == "none":
            return plain
        packed = QUANTISED_BYTES[quantisation]
    linear, total = shape and linear_modules(shape), shape and num_parameters(shape)
    if not linear or not total:
        return packed
    share = sum(m.in_features * m.out_features * m.num_layers for m in linear) / total
    return share * packed + (1 - share) * plain


def estimate(
    shape: Shape,
    *,
    trainable_parameters: int,
    adapter: bool,
    per_device_batch_size: int,
    sequence_length: int,
    weight_bytes: float = 2.0,
    trainable_bytes: float | None = None,
    compute_bytes: int = 2,
    optim: str = "adamw_torch_fused",
    gradient_checkpointing: bool = True,
    materialises_logits: bool = False,
    attn_implementation: str = "sdpa",
    accumulates: bool = False,
    num_reference_models: int = 0,
    other_models_bytes: float = 0.0,
    num_processes: int = 1,
    cuda: bool = True,
    start: tuple[float, bool] = (0.0, False),
) -> MemoryEstimate | None:
    """Peak memory of one process while it trains; None when the parameters of `shape` are unknown.

    Args:
        adapter: the trainable parameters come on top of frozen weights, in fp32 unless `trainable_bytes` differs.
        per_device_batch_size: sequences in one forward pass: twice the pairs for a preference method.
        sequence_length: tokens of the longest row that is trained on.
        weight_bytes: bytes per parameter of the base weights (see `weight_bytes`).
        trainable_bytes: bytes per trainable parameter; None: 4 for an adapter (PEFT upcasts it), else `weight_bytes`.
        compute_bytes: 2 under bf16 or fp16, 4 under fp32.
        accumulates: whether gradients of several passes are added up before a step.
        materialises_logits: False for TRL's SFT and DPO, which fuse the output head with the loss.
        start: bytes that an adapter holds while it looks at rows before the run, and whether it runs backward then.
    """
    if (total := num_parameters(shape)) is None:
        return None
    carried = trainable_bytes if trainable_bytes is not None else 4.0 if adapter else weight_bytes
    tokens = per_device_batch_size * sequence_length
    # Weights that train are counted at their own size, in place of the size of those that do not.
    own = 0 if adapter else trainable_parameters
    base = (total - own) * weight_bytes + own * carried
    gradients = trainable_parameters * carried
    layer = layer_bytes(shape, adapter, compute_bytes, sequence_length, attn_implementation)
    activations = _activation_bytes(shape, layer, compute_bytes, gradient_checkpointing)
    logits = _logits_bytes(shape, tokens, compute_bytes, materialises_logits, trains_head=not adapter)
    context = CUDA_CONTEXT_BYTES + (NCCL_BYTES if num_processes > 1 else 0)
    states = optimiser_bytes(optim, trainable_parameters, carried, adapter, shape.hidden_size)
    return MemoryEstimate(
        weights_gib=(base + (gradients if adapter else 0)) / GIB,
        # DDP copies gradients into buckets of the same total size (torch.nn.parallel.DistributedDataParallel).
        gradients_gib=gradients * (2 if num_processes > 1 else 1) / GIB,
        optimiser_gib=states / GIB,
        activations_gib=tokens * activations / GIB,
        logits_gib=logits / GIB,
        autocast_gib=trainable_parameters * compute_bytes / GIB if accumulates and carried > compute_bytes else 0.0,
        reference_gib=num_reference_models * total * weight_bytes / GIB,
        other_models_gib=other_models_bytes / GIB,
        cuda_context_gib=context / GIB if cuda else 0.0,
        start_gib=_beyond_training(start, gradients + states, tokens * activations + logits) / GIB,
    )


def _activation_bytes(shape: Shape, layer: float, compute_bytes: int, checkpointing: bool) -> float:
    """Bytes per token that all layers keep for the backward pass, and the widest tensors of that pass."""
    # Checkpointing keeps each layer's input and recomputes one layer at a time (arXiv:1604.06174).
    kept = shape.num_hidden_layers * (compute_bytes * shape.hidden_size if checkpointing else layer)
    # estimate: in the backward pass of a layer, gradients of its two widest tensors and of its input are alive.
    gradients = compute_bytes * (2 * _feed_forward_width(shape) + shape.hidden_size)
    return kept + (layer if checkpointing else 0) + gradients


def _beyond_training(start: tuple[float, bool], trained: float, passed: float) -> float:
    """Bytes that looking at rows takes beyond a training step, which has not begun: without the gradients and states of
    what trains, and without a backward pass also without activations and logits."""
    held, backward = start
    return max(0.0, held - trained - (0 if backward else passed))


def optimiser_bytes(optim: str, trainable: int, parameter_bytes: float, adapter: bool, hidden_size: int) -> float:
    """Bytes of the optimiser's states; an optimiser that is not listed counts as AdamW in fp32 (8 per parameter).

    AdamW keeps two states in the dtype of the parameters: 8 bytes for fp32 weights, 4 for bf16 ones.
    """
    if optim in FACTORED:
        # A matrix of side n has 2n statistics. An adapter's matrices are so narrow that the bound is one per element.
        return trainable * 4.0 * (1.0 if adapter else 2 / hidden_size)
    states, each = OPTIMISERS.get(optim, (2, 4.0))
    return trainable * states * (parameter_bytes if each is None else each)


def layer_bytes(shape: Shape, adapter: bool, compute_bytes: int, sequence_length: int, attention: str) -> float:
    """Bytes per token that one layer keeps for the backward pass."""
    hidden, heads = shape.hidden_size, shape.num_attention_heads
    query, key, value = _attention_widths(shape)
    # fp32 adapters on a half-precision model: each adapted layer keeps its own fp32 cast of its input, and the
    # attention's output is kept as well. Otherwise layers that read the same tensor share one copy.
    copies = adapter and compute_bytes < 4
    family = FAMILIES.get(shape.model_type, Family())
    inputs = hidden * (family.num_readers if copies else 2) + query * (2 if copies else 1)
    kept = compute_bytes * (inputs + query + key + value) + 4 * heads
    if attention == "eager":
        # Keys and values are repeated for every head; scores are kept in fp32 and in compute dtype.
        kept += compute_bytes * 2 * (query - key) + heads * sequence_length * (4 + compute_bytes)
    visits = shape.experts.num_experts_per_tok + shape.experts.n_shared_experts if shape.experts else 1
    # Without a gate, the one inner tensor is kept for the activation's backward pass and again as the adapter's cast.
    widths = family.inner_tensors + (copies and family.inner_tensors == 1)
    kept += compute_bytes * widths * _feed_forward_width(shape)
    # Experts also gather their inputs and scatter their outputs.
    kept += 2 * compute_bytes * hidden * visits if visits > 1 else 0
    return kept + _norm_bytes(shape, adapter, compute_bytes)


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


def _attention_widths(shape: Shape) -> tuple[int, int, int]:
    """Elements per token that are kept of queries, keys and values, over all heads."""
    heads, latent = shape.num_attention_heads, shape.latent_attention
    if latent is None:
        query, key = heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        # Values that are a view of one fused projection keep the whole projection alive.
        fused = shape.family is not None and shape.family.fused
        return query, key, query + 2 * key if fused else key
    query = heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
    return query, query, heads * latent.v_head_dim


def _feed_forward_width(shape: Shape) -> int:
    """Elements per token of a feed-forward's widest inner tensor, over all experts that the token visits."""
    experts = shape.experts
    if experts is None:
        return shape.intermediate_size
    return experts.intermediate_size * (experts.num_experts_per_tok + experts.n_shared_experts)


def _logits_bytes(shape: Shape, tokens: int, compute_bytes: int, materialised: bool, trains_head: bool) -> float:
    """Bytes of the whole logits with their fp32 copies, or of one tile with the fp32 sums that the fused head keeps."""
    if materialised:
        return float(tokens * shape.vocab_size * (compute_bytes + 4 * LOGITS_FP32_COPIES))
    tile = min(tokens, TILE_TOKENS) * min(shape.vocab_size, TILE_VOCABULARY) * compute_bytes
    return float(tile + 4 * tokens * shape.hidden_size + (4 * shape.vocab_size * shape.hidden_size * trains_head))
