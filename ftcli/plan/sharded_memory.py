"""What each of several processes holds of a model that FSDP or ZeRO shards: read from the run's settings, in bytes.

FSDP is torch's fully_shard as accelerate 1.15 applies it; ZeRO is DeepSpeed 0.19 (Rajbhandari et al. 2020,
arXiv:1910.02054), with the buffers that its settings ask for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ftcli.models.modules import modules
from ftcli.models.shape import Shape
from ftcli.settings.sharding import mapping_of

_LAYER = re.compile(r"^(.*?\.\d+)\.")

# DeepSpeed's own defaults, in elements (deepspeed/runtime/zero/config.py).
_BUCKET, _LIVE, _SUB_GROUP = 500_000_000, 1_000_000_000, 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """What is sharded over the processes; by default each holds everything (DDP)."""

    library: Literal["none", "fsdp", "zero"] = "none"
    stage: int = 0
    """What is sharded: 0 nothing, 1 the optimiser's states, 2 also the gradients, 3 also the weights."""
    processes: int = 1
    """Processes that share one copy."""
    offloads_weights: bool = False
    """Whether weights (under FSDP all that is sharded) are in the host's memory until a layer computes."""
    offloads_optimiser: bool = False
    reshards: bool = True
    """Whether a layer's gathered weights are freed after its forward pass."""
    whole_gradients: bool = False
    """Whether gradients stay whole while they accumulate: FSDP shards them in the last pass of a step alone."""
    bucket_elements: int = 0
    """Size of the buffers in which gradients are reduced."""
    live_elements: int = 0
    """Weights that ZeRO-3 keeps gathered, since they are used again soon."""

    @property
    def shards_weights(self) -> bool:
        """Whether weights are sharded."""
        return self.stage == 3


class Held(NamedTuple):
    """Bytes of one process."""

    weights: float
    gradients: float
    optimiser: float
    gathered: float
    buffers: float


class Sizes(NamedTuple):
    """Parameters of the parts that are gathered together."""

    total: int
    layer: int
    """The largest layer."""
    ends: int
    """What is in no layer: embedding, last norm and output head."""


def sizes_of(shape: Shape, total: int) -> Sizes:
    """The sizes of a model's parts; without a known layout all of it is in equal layers."""
    if not shape.known:
        return Sizes(total, total // max(1, shape.num_hidden_layers), 0)
    layers: dict[str, int] = {}
    ends = 0
    for module in modules(shape):
        name = _LAYER.match(module.name)
        if name is None:
            ends += module.num_own_parameters
        else:
            layers[name[1]] = layers.get(name[1], 0) + module.num_own_parameters
    return Sizes(total, max(layers.values(), default=0), ends)


def sharding_of(train: Mapping[str, Any], processes: int, hidden_size: int, *, accumulates: bool) -> Sharding:
    """How the `train` settings of a run shard a model over its processes."""
    if zero := mapping_of(train.get("deepspeed")):
        return _zero(zero.get("zero_optimization") or {}, processes, hidden_size)
    if train.get("fsdp"):
        return _fsdp(train, processes, accumulates)
    return Sharding(processes=processes)


def checkpoints(train: Mapping[str, Any]) -> bool:
    """Whether activations are checkpointed, by the Trainer or by FSDP."""
    return bool(train.get("gradient_checkpointing")) or _fsdp_config(train).get("activation_checkpointing") is True


def _fsdp_config(train: Mapping[str, Any]) -> dict[str, Any]:
    """FSDP's settings by their names without the prefix that they may have; none without FSDP."""
    given = mapping_of(train.get("fsdp_config")) if train.get("fsdp") else {}
    return {name.removeprefix("fsdp_"): value for name, value in given.items()}


def _fsdp(train: Mapping[str, Any], processes: int, accumulates: bool) -> Sharding:
    words = train["fsdp"]
    legacy = words.split() if isinstance(words, str) else [str(word) for word in words] if words is not True else []
    config = _fsdp_config(train)
    reshards = config.get("reshard_after_forward", "shard_grad_op" not in legacy)
    offloads = bool(config.get("cpu_offload", "offload" in legacy))
    meshes = mapping_of(train.get("parallelism_config"))
    kwargs = mapping_of(train.get("accelerator_config")).get("gradient_accumulation_kwargs") or {}
    return Sharding(
        library="fsdp",
        stage=3,
        processes=int(meshes.get("dp_shard_size") or processes),
        offloads_weights=offloads,
        offloads_optimiser=offloads,
        reshards=str(reshards).lower() not in ("false", "0", "no", "shard_grad_op"),
        whole_gradients=accumulates and not kwargs.get("sync_each_batch"),
    )


def _zero(config: Mapping[str, Any], processes: int, hidden_size: int) -> Sharding:
    def elements(name: str, default: int, auto: int) -> int:
        value = config.get(name, default)
        return auto if value == "auto" else int(float(value))

    def offloads(name: str) -> bool:
        device = (config.get(f"offload_{name}") or {}).get("device", "none")
        return bool(config.get(f"cpu_offload{'_param' if name == 'param' else ''}")) or device != "none"

    stage = int(config.get("stage", 1 if config else 0))
    overlaps = config.get("overlap_comm")
    overlaps = stage == 3 if overlaps is None else overlaps
    bucket = elements("reduce_bucket_size", _BUCKET, hidden_size**2)
    contiguous = config.get("contiguous_gradients", True)
    live = min(
        elements("stage3_max_live_parameters", _LIVE, _LIVE), elements("stage3_max_reuse_distance", _LIVE, _LIVE)
    )
    prefetched = elements("stage3_prefetch_bucket_size", 50_000_000, int(0.9 * hidden_size**2))
    return Sharding(
        library="zero" if stage else "none",
        stage=stage,
        processes=processes,
        offloads_weights=stage == 3 and offloads("param"),
        offloads_optimiser=offloads("optimizer"),
        bucket_elements=bucket * (2 if overlaps and stage < 3 else 1) if stage and contiguous else 0,
        live_elements=live + prefetched if stage == 3 else 0,
    )


def held(
    sharding: Sharding,
    sizes: Sizes,
    *,
    frozen_bytes: float,
    trained: int,
    trained_bytes: float,
    state_bytes: float,
    compute_bytes: int,
) -> Held:
    """What one process holds between two passes, and what it gathers for one.

    Args:
        frozen_bytes: all bytes of the weights that do not train.
        trained: parameters that train.
        trained_bytes: bytes of each of them.
        state_bytes: all bytes of the optimiser's states.
    """
    if sharding.library == "fsdp":
        carried = trained * trained_bytes
        return _held_by_fsdp(sharding, sizes, frozen_bytes, carried, state_bytes, trained, compute_bytes)
    if sharding.library == "zero":
        return _held_by_zero(sharding, sizes, frozen_bytes, trained, state_bytes, compute_bytes)
    gradients = trained * trained_bytes
    # DDP copies gradients into buckets of the same total size (torch.nn.parallel.DistributedDataParallel).
    copies = gradients if sharding.processes > 1 else 0.0
    return Held(frozen_bytes + gradients, gradients, state_bytes, 0.0, copies)


def _held_by_fsdp(
    sharding: Sharding, sizes: Sizes, frozen: float, carried: float, states: float, trained: int, compute: int
) -> Held:
    share = 0.0 if sharding.offloads_weights else 1 / sharding.processes
    # The embedding and head stay gathered from their forward to their backward pass; of the layers one computes while
    # the next is gathered. Each has its gradient beside it in the backward pass, which is copied to be reduced.
    layers = sizes.total - sizes.ends if not sharding.reshards else 2 * sizes.layer
    trains = min(1.0, trained / sizes.total) if sizes.total else 0.0
    gathered = compute * (sizes.ends + layers + trains * 2 * sizes.layer)
    # In the last pass each layer's whole gradients make room for a part of them.
    whole = float(trained * compute) if sharding.whole_gradients else 0.0
    return Held((frozen + carried) * share, max(carried * share, whole), states * share, gathered, 0.0)


def _held_by_zero(sharding: Sharding, sizes: Sizes, frozen: float, trained: int, states: float, compute: int) -> Held:
    part = 1 / sharding.processes
    # DeepSpeed computes with weights in the compute type, and steps on float32 copies of each process's part, which it
    # makes in float32 too: it compares a device with a device's name, which are never equal.
    masters = 4.0 * trained * part
    weights = frozen + compute * trained
    if sharding.shards_weights:
        weights *= 0 if sharding.offloads_weights else part
    # Beside the gradients in the compute type, a part of them is cast to float32 for the step.
    cast = 4 * (min(trained * part, _SUB_GROUP) if sharding.stage == 3 else trained * part)
    gradients = compute * trained * (part if sharding.stage > 1 else 1)
    if sharding.offloads_optimiser:
        masters, states, cast = 0.0, 0.0, 0.0
        gradients = gradients if sharding.stage == 1 else 0.0
    gathered = compute * min(sizes.total, sharding.live_elements) if sharding.shards_weights else 0.0
    buffers = compute * sharding.bucket_elements + cast
    return Held(weights + masters, gradients, states * part, gathered, buffers)
