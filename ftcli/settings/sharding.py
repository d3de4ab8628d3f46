"""How a run shards its model over processes, as `train.fsdp` and `train.deepspeed` say, and why nothing else does.

accelerate's ParallelismConfig names two further ways. Neither is carried far enough to keep what every run here keeps;
tests hold the reasons against the installed libraries, so that a version that carries one is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftcli.core.untrusted import foreign_files

FSDP, ZERO = "fsdp", "zero"
NO_TENSOR_PARALLEL = (
    "tensor parallelism: transformers' Trainer saves no optimiser of a model whose layers are divided, so that such a"
    " run could not be resumed"
)
NO_CONTEXT_PARALLEL = (
    "context parallelism: torch divides the attention over a row on GPUs alone, so that nothing here holds it to the"
    " losses of one process, and TRL's methods that sample refuse it"
)


def mapping_of(value: Any) -> Mapping[str, Any]:
    """A setting that is a mapping, its text as JSON, or the name of a JSON file; {} for anything else."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, str) or not value:
        return {}
    try:
        is_text = value.lstrip().startswith("{")
        content = foreign_files.parse_json(value) if is_text else foreign_files.read_json(Path(value).expanduser())
    except (OSError, ValueError):  # which the check of the setting reports
        return {}
    return content if isinstance(content, Mapping) else {}


def sharding(train: Mapping[str, Any]) -> str | None:
    """What of a model is sharded: "fsdp", "zero1" (optimiser), "zero2" (and gradients), "zero3" (and weights), or None
    where each process holds a whole copy."""
    if train.get("fsdp"):
        return FSDP
    stage = (
        zero.get("stage")
        if isinstance(zero := mapping_of(train.get("deepspeed")).get("zero_optimization"), Mapping)
        else 0
    )
    return f"{ZERO}{stage}" if stage in (1, 2, 3) else None


def shards_weights(train: Mapping[str, Any]) -> bool:
    """Whether each process holds only its share of the weights."""
    return sharding(train) in (FSDP, f"{ZERO}3")
