"""Bounds and choices of settings that the libraries do not check, for our settings and theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The values that a setting may take, where the library itself does not check them.

    `low` and `high` bound a number, `open_low` and `open_high` exclude it; `choices` lists the values that exist.
    """

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()


_POSITIVE = Limit(low=0, open_low=True)

_NOT_NEGATIVE = Limit(low=0)

_COUNT = Limit(low=1)

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
    "train.dataloader_num_workers": _NOT_NEGATIVE,
    "train.dataloader_prefetch_factor": _COUNT,
    "train.ddp_timeout": _COUNT,
    "train.torch_empty_cache_steps": _COUNT,
    "method.router_aux_loss_coef": _NOT_NEGATIVE,
    "data.eval_share": Limit(low=0, high=0.9),
    "data.near_duplicates": Limit(low=0, high=1, open_low=True),
    "data.split_seed": Limit(low=0, high=2**32 - 1),
    "data.max_length_tokens": Limit(low=2),
    "data.max_bad_share": Limit(low=0, high=1),
    "data.shuffle_buffer_rows": _COUNT,
    "data.max_rows": _COUNT,
    "data.max_eval_rows": _COUNT,
    "hardware.num_processes": _COUNT,
    "hardware.num_threads": _COUNT,
    "run.score_rows": _NOT_NEGATIVE,
    "run.early_stopping_patience": _COUNT,
}
