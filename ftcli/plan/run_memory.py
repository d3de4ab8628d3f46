"""Resolved run → the memory of one of its processes: what of its settings and rows the estimate depends on."""

from __future__ import annotations

from typing import Any

from ftcli.launch.profile import cards
from ftcli.methods import Method
from ftcli.methods.method import further_models
from ftcli.models.known_shapes import model_shape
from ftcli.models.parameters import num_parameters
from ftcli.models.shape import Shape
from ftcli.models.stored_quantisation import StoredQuantisation, stored_quantisation
from ftcli.plan.activations import Pass
from ftcli.plan.memory import GIB, MemoryEstimate, Surroundings, Weights, estimate, weight_bytes
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.plan.sampling_memory import Sampling, cache_bytes
from ftcli.plan.sharded_memory import Sharding, checkpoints, sharding_of
from ftcli.plan.tokens import TokenCount
from ftcli.settings.batch_plan import train_value
from ftcli.settings.groups import as_saved
from ftcli.settings.library_fields import fields_of, value_of
from ftcli.settings.run_spec import RunSpec

SCORED_TOGETHER = 32
"""Held-out prompts that are answered together when a run is scored (ftcli/worker/inference/metrics.py)."""


def run_memory(run: ResolvedRun, trainable: int | None, counted: TokenCount) -> MemoryEstimate | None:
    """The peak memory of one process of a run, by phase; None where the model or what trains is unknown."""
    spec, shape = run.spec, run.shape
    if trainable is None and shape is not None and run.peft is not None:
        trainable = run.peft.at_most(shape, spec.peft)
    if shape is None or trainable is None:
        return None
    accumulates = run.batch.accumulation > 1
    sharding = sharding_of(spec.train, spec.launch.num_processes, shape.hidden_size, accumulates=accumulates)
    return estimate(
        shape,
        _weights(run, shape, trainable, sharding),
        training_pass(run, counted),
        sharding=sharding,
        beside=_surroundings(run, shape, counted, sharding),
    )


def _weights(run: ResolvedRun, shape: Shape, trainable: int, sharding: Sharding) -> Weights:
    spec, stored = run.spec, stays_quantised(run)
    packed = stored.weight_bytes() if stored else None
    per_weight = weight_bytes(shape, spec.model.dtype, spec.quantisation.type, packed)
    # accelerate's FSDP2 holds what trains in float32 under mixed precision, and shards that; DeepSpeed trains in
    # the compute type, on masters of its own.
    by_zero = sharding.library == "zero"
    return Weights(
        trained=trainable,
        adapter=run.trains_adapter,
        each_bytes=per_weight,
        trained_bytes=float(_compute_bytes(spec)) if by_zero else 4.0 if spec.holds_masters else None,
        optim=str(train_value(spec.train, "optim")),
        quantised=bool(stored) or spec.quantisation.type != "none",
        accumulates=run.batch.accumulation > 1,
        start=run.peft.start_bytes(shape, spec.peft, per_weight) if run.peft else (0.0, False),
    )


def _compute_bytes(spec: RunSpec) -> int:
    return 4 if spec.launch.device == "cpu" else 2


def training_pass(run: ResolvedRun, counted: TokenCount) -> Pass:
    """The forward and backward pass of a run's longest rows."""
    spec, method = run.spec, run.method
    packs = bool(spec.method.get("packing"))
    # The longest row of a sample may not be the longest of all, and packed blocks are always full.
    length = counted.longest if counted.exact and not packs else counted.max_length_tokens
    sides = 2 if method.task == "preference" else 1  # chosen and rejected share one batch
    rows = run.batch.per_device * sides
    return Pass(
        rows=rows,
        length=max(1, length + answer_tokens(spec, method)),
        compute_bytes=_compute_bytes(spec),
        checkpointing=checkpoints(spec.train),
        attention=spec.model.attn_implementation,
        masked=packs or rows > 1,  # a single row has neither neighbours nor padding
        compiled=bool(spec.train.get("torch_compile")),
        on_cpu=spec.launch.device == "cpu",
    )


def _surroundings(run: ResolvedRun, shape: Shape, counted: TokenCount, sharding: Sharding) -> Surroundings:
    spec, method = run.spec, run.method
    precomputed = bool(spec.method.get("precompute_ref_log_probs"))
    # Without a KL term, TRL's sampling trainers load no reference.
    unused = method.samples and "beta" in fields_of(method.config) and not value_of(method.config, spec.method, "beta")
    another = bool(spec.method.get("reference_model"))  # counted with the further models
    refers = "reference" in method.roles and not (run.trains_adapter or precomputed or unused or another)
    sampling = _sampling(run, counted)
    vllm = has_engine(run)
    return Surroundings(
        num_reference_models=int(refers),
        other_models_bytes=_other_models(spec, method, sharding),
        sampling=None if method.samples and spec.method.get("use_vllm") else sampling,
        vllm_bytes=_vllm_bytes(run, shape, sampling) if vllm else 0.0,
        vllm_sleeps=vllm and bool(value_of(method.config, spec.method, "vllm_enable_sleep_mode")),
        cuda=spec.launch.device == "cuda",
    )


def _sampling(run: ResolvedRun, counted: TokenCount) -> Sampling | None:
    """The most answers that a process generates together, in a rollout or when held-out rows are scored."""
    spec, method, compute = run.spec, run.method, _compute_bytes(run.spec)
    prompt = counted.longest if counted.exact else counted.max_length_tokens
    if method.samples:
        return Sampling(
            answers=max(1, method.answers_together(method.completed(spec.method), run.batch)),
            prompt_length=prompt,
            answer_length=answer_tokens(spec, method),
            compute_bytes=compute,
        )
    if not spec.run.score_rows or method.score not in ("exact_match", "mean_reward"):
        return None
    # A prompt with its right answer is one row, and a wrong answer ends little later.
    return Sampling(
        answers=min(SCORED_TOGETHER, spec.run.score_rows), prompt_length=prompt, answer_length=0, compute_bytes=compute
    )


def _vllm_bytes(run: ResolvedRun, shape: Shape, sampling: Sampling | None) -> float:
    """What a colocated vLLM engine takes: its share of the card, or its weights and cache where the card is unknown."""
    spec = run.spec
    if known := cards(spec.launch):
        share = float(value_of(run.method.config, spec.method, "vllm_gpu_memory_utilization"))
        return share * min(each.memory_gib for each in known) * GIB
    # A group of processes shares the weights, and answers the prompts of them all with a share of the heads each.
    parallel = int(value_of(run.method.config, spec.method, "vllm_tensor_parallel_size"))
    weights = (num_parameters(shape) or 0) * weight_bytes(shape, spec.compute_dtype) / parallel
    return weights + (cache_bytes(shape, sampling) if sampling else 0.0)


def has_engine(run: ResolvedRun) -> bool:
    """Whether each process holds a vLLM engine beside what it trains."""
    own, config = run.spec.method, run.method.config
    return bool(own.get("use_vllm")) and value_of(config, own, "vllm_mode") == "colocate"


def engine_length(run: ResolvedRun, counted: TokenCount) -> int | None:
    """Tokens of the longest sequence of a vLLM engine, where that follows from the rows."""
    if not has_engine(run) or run.spec.method.get("vllm_max_model_length") is not None:
        return None
    prompt = counted.longest if counted.exact else counted.max_length_tokens
    return prompt + answer_tokens(run.spec, run.method)


def stays_quantised(run: ResolvedRun) -> StoredQuantisation | None:
    """How the model's weights are stored, where they stay so in memory."""
    stored = stored_quantisation(run.spec.model)
    return stored if stored and stored.stays else None


def _other_models(spec: RunSpec, method: Method, sharding: Sharding) -> float:
    """Bytes of a reward model, judge, teacher or named reference, and of a value network with its gradients and two
    optimiser states."""
    weight = weight_bytes(None, spec.model.dtype)
    frozen = [(name, 1.0) for key, name, _ in further_models(spec.method) if key != "value_model"]
    # Weight, gradient and two states; where what trains is held in float32, each is twice as long. A critic beside a
    # sharded policy is sharded as well.
    copies = (8 if spec.holds_masters else 4) / (sharding.processes if sharding.library != "none" else 1)
    total = 0.0
    for name, number in [*frozen, (_value_network(spec, method), copies)]:
        shape = model_shape(as_saved(spec.model, str(name))) if name else None
        total += number * weight * ((num_parameters(shape) if shape else None) or 0)
    return total


def _value_network(spec: RunSpec, method: Method) -> Any:
    wanted = spec.method.get("value_model") if "value" in method.roles else None
    return spec.method.get("reward_model") if wanted == "reward_model" else None if wanted == "head" else wanted


def answer_tokens(spec: RunSpec, method: Method) -> int:
    """Tokens of the longest answer that a method samples; 0 where it samples none."""
    if not method.samples:
        return 0
    name = "max_new_tokens" if "max_new_tokens" in fields_of(method.config) else "max_completion_length"
    return int(value_of(method.config, spec.method, name))
