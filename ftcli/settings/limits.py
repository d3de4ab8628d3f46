"""Bounds and choices of settings that the libraries do not check, for our settings and theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The values that a setting may take, where the library itself does not check them.

    `low` and `high` bound a number, `open_low` and `open_high` exclude it; `choices` lists the values that exist;
    `mapping` takes a mapping where the library declares a class, whose entries are checked elsewhere.
    """

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()
    mapping: bool = False


MOST = 10**18
"""No setting takes a larger number: products of them stay what a float can hold and a table can show."""
MAX_PROCESSES = 256
"""Processes of a run on one machine: no machine has so many GPUs, and few have so many cores."""
MAX_NODES = 10_000
"""Machines of a run."""
MAX_WORKERS = 128
"""Processes that load rows, for each process of a run; requests to an endpoint that are under way at once."""
MAX_THREADS = 1024
"""Threads of one process."""
MAX_TRIES = 1000
MAX_TRACED_STEPS = 100
"""Tries of what failed: restarts of a run, requests to an endpoint."""

_POSITIVE = Limit(low=0, open_low=True)

_NOT_NEGATIVE = Limit(low=0)

_COUNT = Limit(low=1)

_SHARE = Limit(low=0, high=1)

_PROBABILITY = Limit(low=0, high=1, open_low=True)

_PORT = Limit(low=1, high=65535)

BELOW_ONE = Limit(low=0, high=1, open_high=True)
"""A share that must leave something: dropout of 1 lets nothing through, so nothing would be learned."""

WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
"""Values of train.lr_scheduler_type for which transformers ignores train.warmup_steps."""

LIMITS: Mapping[str, Limit] = {
    "seed": Limit(low=0, high=2**32 - 1),
    "train.learning_rate": _POSITIVE,
    "train.num_train_epochs": _POSITIVE,
    "train.max_steps": _COUNT,
    "train.per_device_train_batch_size": _COUNT,
    "train.per_device_eval_batch_size": _COUNT,
    "train.gradient_accumulation_steps": _COUNT,
    "train.eval_accumulation_steps": _COUNT,
    "train.weight_decay": _NOT_NEGATIVE,
    "train.max_grad_norm": _NOT_NEGATIVE,
    "train.warmup_steps": _NOT_NEGATIVE,
    "train.adam_beta1": BELOW_ONE,
    "train.adam_beta2": BELOW_ONE,
    "train.adam_epsilon": _POSITIVE,
    "train.label_smoothing_factor": BELOW_ONE,
    "train.neftune_noise_alpha": _NOT_NEGATIVE,
    "train.logging_steps": _POSITIVE,
    "train.save_steps": _POSITIVE,
    "train.eval_steps": _POSITIVE,
    "train.eval_delay": _NOT_NEGATIVE,
    "train.save_total_limit": _COUNT,
    "train.dataloader_num_workers": Limit(low=0, high=MAX_WORKERS),
    "train.dataloader_prefetch_factor": Limit(low=1, high=10_000),
    "train.ddp_timeout": _COUNT,
    "train.torch_empty_cache_steps": _COUNT,
    "train.ddp_bucket_cap_mb": _COUNT,
    "method.router_aux_loss_coef": _NOT_NEGATIVE,
    "method.pad_to_multiple_of": _COUNT,
    "method.temperature": _POSITIVE,
    "method.top_k": _NOT_NEGATIVE,
    "method.top_p": _PROBABILITY,
    "method.min_p": _SHARE,
    "method.repetition_penalty": _POSITIVE,
    "method.max_completion_length": _COUNT,
    "method.generation_batch_size": _COUNT,
    "method.steps_per_generation": _COUNT,
    "method.num_generations_eval": _COUNT,
    "method.num_completions_to_print": _NOT_NEGATIVE,
    "method.judge_principles": _COUNT,
    "method.epsilon_high": _POSITIVE,
    "method.delta": _POSITIVE,
    "method.off_policy_mask_threshold": _NOT_NEGATIVE,
    "method.top_entropy_quantile": _SHARE,
    "method.entropy_coef": _NOT_NEGATIVE,
    "method.entropy_coef_min": _NOT_NEGATIVE,
    "method.entropy_coef_max": _NOT_NEGATIVE,
    "method.entropy_coef_delta": _NOT_NEGATIVE,
    "method.entropy_target": _NOT_NEGATIVE,
    "method.sapo_temperature_pos": _POSITIVE,
    "method.sapo_temperature_neg": _POSITIVE,
    "method.vespo_k_pos": _NOT_NEGATIVE,
    "method.vespo_k_neg": _NOT_NEGATIVE,
    "method.vespo_lambda_pos": _NOT_NEGATIVE,
    "method.vespo_lambda_neg": _NOT_NEGATIVE,
    "method.discopop_tau": _POSITIVE,
    "method.f_alpha_divergence_coef": _POSITIVE,
    "method.nll_weight": _NOT_NEGATIVE,
    "method.ref_model_mixup_alpha": _SHARE,
    "method.ref_model_sync_steps": _COUNT,
    "method.precompute_ref_batch_size": _COUNT,
    "method.vllm_gpu_memory_utilization": _PROBABILITY,
    "method.vllm_tensor_parallel_size": _COUNT,
    "method.vllm_max_model_length": _COUNT,
    "method.vllm_server_port": _PORT,
    "method.vllm_group_port": _PORT,
    "method.vllm_server_timeout": _POSITIVE,
    "method.vllm_importance_sampling_clip_min": _NOT_NEGATIVE,
    "method.vllm_importance_sampling_clip_max": _POSITIVE,
    "data.eval_share": Limit(low=0, high=0.9),
    "data.near_duplicates": Limit(low=0, high=1, open_low=True),
    "data.split_seed": Limit(low=0, high=2**32 - 1),
    "data.max_length_tokens": Limit(low=2),
    "data.max_bad_share": Limit(low=0, high=1),
    "data.shuffle_buffer_rows": _COUNT,
    "data.max_rows": _COUNT,
    "data.max_eval_rows": _COUNT,
    "hardware.max_requeues": Limit(low=0, high=MAX_TRIES),
    "hardware.max_restarts": Limit(low=0, high=MAX_TRIES),
    "hardware.step_timeout_seconds": _COUNT,
    "hardware.stop_seconds": _COUNT,
    "hardware.node_rank": _NOT_NEGATIVE,
    "hardware.num_nodes": Limit(low=1, high=MAX_NODES),
    "hardware.num_processes": Limit(low=1, high=MAX_PROCESSES),
    "hardware.num_threads": Limit(low=1, high=MAX_THREADS),
    "run.score_rows": _NOT_NEGATIVE,
    "run.early_stopping_patience": _COUNT,
    "run.profile_steps": Limit(low=1, high=MAX_TRACED_STEPS),
}

OF_BACKEND: Mapping[str, Limit] = {
    "batch_size": _COUNT,
    "gpu_memory_utilization": _PROBABILITY,
    "max_model_length": _COUNT,
    "concurrency": Limit(low=1, high=MAX_WORKERS),
    "timeout_seconds": _POSITIVE,
    "max_retries": Limit(low=0, high=MAX_TRIES),
    "max_requests": _COUNT,
    "max_tokens": _COUNT,
}
"""Of the settings of a judge or generator, in a pipeline's stage or as method.judge."""
