"""Estimates the peak memory of one process, part by part and phase by phase, from sizes alone.

A run loads its weights, samples where its method does, and trains; the phase that takes most decides. What a library
allocates beyond what follows from sizes is marked `estimate`. The parts are computed in bytes; the result is in GiB of
2**30 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ftcli.models.modules import modules
from ftcli.models.parameters import linear_modules, num_parameters
from ftcli.models.shape import Shape
from ftcli.plan.activations import Pass, activation_bytes, logits_bytes, mask_bytes
from ftcli.plan.optimiser_states import optimiser_bytes
from ftcli.plan.sampling_memory import Sampling, cache_bytes, pass_bytes
from ftcli.plan.sharded_memory import Held, Sharding, held, sizes_of

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

# estimate: driver context, kernels and cuBLAS workspaces of one process on a data-centre GPU.
CUDA_CONTEXT_BYTES = 0.6 * GIB
# estimate: NCCL's channels and buffers, where several processes communicate.
NCCL_BYTES = 0.6 * GIB
# estimate: share of what is allocated anew in each pass that torch's caching allocator holds and cannot use, in pieces
# between tensors that live longer.
FRAGMENTED = 0.02


PARTS: Mapping[str, str] = MappingProxyType(
    {
        "weights": "The weights that a process holds: what trains in float32 under mixed precision, what is frozen as "
        "it is stored. Shared out under FSDP and ZeRO-3; DeepSpeed's float32 copies are among them.",
        "gradients": "One for each parameter that trains. FSDP shards them after the last pass of a step: until "
        "then each process accumulates all of them.",
        "optimiser": "The states of the optimiser, as many and as long as it keeps them.",
        "gathered": "Weights of other processes: two layers and the ends of the model under FSDP, what DeepSpeed keeps "
        "live under ZeRO-3, the whole model while it samples.",
        "buffers": "DDP's buckets, as large as the gradients, or the buffer in which DeepSpeed reduces them.",
        "activations": "What the backward pass needs of the forward pass: all of it, or with gradient checkpointing "
        "the inputs of layers and one layer's inside. A compiled model keeps less.",
        "attention_masks": "Of padded and packed rows under sdpa: quadratic in the length, one for each layer that is "
        "kept. Flash and flex attention have none.",
        "logits": "The tile of the fused output head, and the sums that it keeps.",
        "autocast": "Copies of float32 weights in the type that they are computed in.",
        "dequantisation": "The largest quantised layer in the type that it is computed in.",
        "kv_cache": "Keys and values of all answers that are generated together.",
        "sampling": "The forward pass over their prompts, or the logits of their next tokens.",
        "vllm": "What a vLLM engine takes of the card that it shares with the training.",
        "loading": "The largest tensor that changes its type when it is loaded.",
        "start": "What an adapter that starts from rows takes beyond training.",
        "fragmentation": "What torch's allocator holds and cannot use (an estimate: 2% of what each pass allocates).",
        "reference": "A frozen copy of the policy; none with an adapter, without a KL term, or precomputed.",
        "other_models": "A reward model, judge or teacher, and a critic with its gradients and states.",
        "cuda_context": "What driver, kernels and NCCL take before anything is allocated (an estimate).",
    }
)
"""Every part that a plan may count, with what it is."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of one process, in GiB."""

    phases: Mapping[str, Mapping[str, float]]
    """The parts that are alive at the peak of each phase: loading, sampling, training."""

    def __getitem__(self, part: str) -> float:
        """GiB of a part, the most that it has in any phase; 0 where it has none."""
        return max(parts.get(part, 0.0) for parts in self.phases.values())

    @property
    def phase(self) -> str:
        """The phase that takes most, and so decides."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def total_gib(self) -> float:
        """Sum of the parts of the phase that takes most."""
        return sum(self.parts().values())

    def parts(self) -> Mapping[str, float]:
        """GiB of each part of the phase that takes most."""
        return self.phases[self.phase]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The model that trains, and what it is trained with."""

    trained: int
    """Parameters that train."""
    adapter: bool
    """Whether they come on top of frozen weights."""
    each_bytes: float = 2.0
    """Bytes per parameter of the base weights (see `weight_bytes`)."""
    trained_bytes: float | None = None
    """Bytes per parameter that trains; None: 4 for an adapter (PEFT upcasts it), else `each_bytes`."""
    optim: str = "adamw_torch_fused"
    quantised: bool = False
    """Whether layers are stored quantised, and turned to the compute type one at a time to be multiplied."""
    accumulates: bool = False
    """Whether gradients of several passes are added up before a step."""
    start: tuple[float, bool] = (0.0, False)
    """Bytes that an adapter holds while it looks at rows before the run, and whether it runs backward then."""

    @property
    def carried(self) -> float:
        """Bytes per parameter that trains."""
        if self.trained_bytes is not None:
            return self.trained_bytes
        return 4.0 if self.adapter else self.each_bytes


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What else is in the memory of the process."""

    num_reference_models: int = 0
    other_models_bytes: float = 0.0
    """A reward model, a judge or teacher, and a value network with its gradients and optimiser states."""
    sampling: Sampling | None = None
    """None where answers are not generated by the model itself in this process."""
    vllm_bytes: float = 0.0
    """What a vLLM engine takes of the card that it shares with the training."""
    vllm_sleeps: bool = False
    """Whether it gives its memory back while the policy trains."""
    cuda: bool = True
    """Whether this is a process of a GPU, which has a context there, and an allocator that leaves gaps."""


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


_ALONE = Sharding()
_NOTHING = Surroundings()


def estimate(
    shape: Shape,
    weights: Weights,
    how: Pass,
    *,
    sharding: Sharding = _ALONE,
    beside: Surroundings = _NOTHING,
) -> MemoryEstimate | None:
    """Peak memory of one process by phase; None when the parameters of `shape` are unknown."""
    if (total := num_parameters(shape)) is None:
        return None
    # Weights that train are counted at their own size, in place of the size of those that do not. DeepSpeed's optimiser
    # steps on float32 copies.
    frozen = (total - (0 if weights.adapter else weights.trained)) * weights.each_bytes
    stepped = 4.0 if sharding.library == "zero" else weights.carried
    own = held(
        sharding,
        sizes_of(shape, total),
        frozen_bytes=frozen,
        trained=weights.trained,
        trained_bytes=weights.carried,
        state_bytes=optimiser_bytes(weights.optim, weights.trained, stepped, weights.adapter, shape.hidden_size),
        compute_bytes=how.compute_bytes,
    )
    each_reference = total * weights.each_bytes / (sharding.processes if sharding.shards_weights else 1)
    casts = weights.carried > how.compute_bytes and sharding.library == "none"
    last = {
        "reference": beside.num_reference_models * each_reference,
        "other_models": beside.other_models_bytes,
        **_context(sharding, beside.cuda),
    }
    dequantised = _widest(shape) * how.compute_bytes if weights.quantised else 0.0
    copies = float(weights.trained * how.compute_bytes) if casts else 0.0
    phases = {
        "loading": {"weights": own.weights, "loading": _converted(shape, weights), **_context(sharding, beside.cuda)},
        "training": _training(shape, weights, how, own, beside, copies, dequantised) | last,
    }
    if beside.sampling is not None or beside.vllm_bytes:
        gathered = float(total * how.compute_bytes) if sharding.shards_weights else 0.0
        phases["sampling"] = _sampling(shape, own, beside, gathered, copies, dequantised) | last
    return MemoryEstimate({name: {part: size / GIB for part, size in each.items()} for name, each in phases.items()})


def _training(
    shape: Shape, weights: Weights, how: Pass, own: Held, beside: Surroundings, copies: float, dequantised: float
) -> dict[str, float]:
    """Bytes of the parts that are alive at the peak of a training step."""
    casts = weights.carried > how.compute_bytes
    activations = activation_bytes(shape, how, adapter=weights.adapter, casts=casts)
    logits, masks = logits_bytes(shape, how, trains_head=not weights.adapter), mask_bytes(shape, how)
    anew = activations + logits + masks + dequantised
    return {
        "weights": own.weights,
        "gradients": own.gradients,
        "optimiser": own.optimiser,
        "gathered": own.gathered,
        "buffers": own.buffers,
        "activations": activations,
        "attention_masks": masks,
        "logits": logits,
        # Autocast keeps copies from a forward pass to its backward pass, beside the gradients that earlier passes have
        # accumulated; without these, the gradients to come take more.
        "autocast": copies if weights.accumulates else 0.0,
        "dequantisation": dequantised,
        "vllm": 0.0 if beside.vllm_sleeps else beside.vllm_bytes,
        "start": _beyond_training(weights.start, own.gradients + own.optimiser, activations + logits),
        "fragmentation": FRAGMENTED * anew if beside.cuda else 0.0,
    }


def _sampling(
    shape: Shape, own: Held, beside: Surroundings, gathered: float, copies: float, dequantised: float
) -> dict[str, float]:
    """Bytes of the parts that are alive while answers are sampled: gradients are not, the optimiser's states are."""
    cache = cache_bytes(shape, beside.sampling) if beside.sampling else 0.0
    once = pass_bytes(shape, beside.sampling) if beside.sampling else 0.0
    return {
        "weights": own.weights,
        "optimiser": own.optimiser,
        "gathered": gathered,  # each process has all weights for as long as it samples
        "buffers": own.buffers,
        "kv_cache": cache,
        "sampling": once,
        "autocast": copies,
        "dequantisation": dequantised,
        "vllm": beside.vllm_bytes,
        "fragmentation": FRAGMENTED * (cache + once) if beside.cuda else 0.0,
    }


def _context(sharding: Sharding, cuda: bool) -> dict[str, float]:
    """The part of a GPU's memory that a process takes before it has allocated anything."""
    size = CUDA_CONTEXT_BYTES + (NCCL_BYTES if sharding.processes > 1 else 0)
    return {"cuda_context": size if cuda else 0.0}


def _widest(shape: Shape) -> int:
    """Elements of the largest linear layer that is stored quantised."""
    linear = linear_modules(shape) or ()
    return max((module.in_features * module.out_features for module in linear), default=0)


def _converted(shape: Shape, weights: Weights) -> float:
    """Bytes of the largest tensor that is turned into another type when it is loaded, in 16 bits: a layer that is then
    stored quantised, or one that trains and is held in float32."""
    if weights.quantised:
        return 2.0 * _widest(shape)
    held = weights.carried > 2 and not weights.adapter and shape.known
    return 2.0 * max(module.num_own_parameters for module in modules(shape)) if held else 0.0


def _beyond_training(start: tuple[float, bool], trained: float, passed: float) -> float:
    """Bytes that looking at rows takes beyond a training step, which has not begun: without the gradients and states of
    what trains, and without a backward pass also without activations and logits."""
    held, backward = start
    return max(0.0, held - trained - (0 if backward else passed))
