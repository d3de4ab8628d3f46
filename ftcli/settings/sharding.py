"""How a run shards its model over processes, as `train.fsdp` and `train.deepspeed` say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FSDP, ZERO = "fsdp", "zero"


def mapping_of(value: Any) -> Mapping[str, Any]:
    """A setting that is a mapping, its text as JSON, or the name of a JSON file; {} for anything else."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, str) or not value:
        return {}
    try:
        text = value if value.lstrip().startswith("{") else Path(value).expanduser().read_text(encoding="utf-8")
        content = json.loads(text)
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
