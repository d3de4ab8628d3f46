"""What makes up one optimiser step: the one place where batch sizes, accumulation and processes are multiplied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.settings.library_fields import TRAINING_ARGUMENTS, value_of

ACCUMULATION = "gradient_accumulation_steps"
SIZE, AUTO = "per_device_train_batch_size", "auto"
"""The rows of one pass on one device, and the word for those that ftcli chooses."""
STANDARD_SIZE = 8
"""Rows that a device takes in one pass at most where nothing says how many."""


def train_value(train: Mapping[str, Any], name: str) -> Any:
    """A field of TrainingArguments as the run has it: as set, else the library's own default, read from its source."""
    return value_of(TRAINING_ARGUMENTS, train, name)


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How the rows of one optimiser step are spread over devices and passes."""

    per_device: int
    """Rows that one process takes in one forward pass."""
    accumulation: int
    """Forward passes whose gradients are added up before the optimiser steps."""
    processes: int

    @classmethod
    def of(cls, train: Mapping[str, Any], num_processes: int) -> BatchPlan:
        """The plan of a run's `train` settings on that many processes."""
        return cls(
            per_device=int(train_value(train, "per_device_train_batch_size")),
            accumulation=int(train_value(train, "gradient_accumulation_steps")),
            processes=num_processes,
        )

    @property
    def rows_per_pass(self) -> int:
        """Rows of one forward pass over all processes."""
        return self.per_device * self.processes

    @property
    def rows(self) -> int:
        """Rows (or packed blocks) per optimiser step: the global batch."""
        return self.rows_per_pass * self.accumulation

    def answers_per_generation(self, method: Mapping[str, Any]) -> int:
        """Answers that all processes sample at a time under a method's settings, before they are learned from."""
        passes = int(method.get("steps_per_generation") or self.accumulation)
        return int(method.get("generation_batch_size") or self.rows_per_pass * passes)

    def steps_per_epoch(self, rows: int, *, drop_last: bool = False) -> int:
        """Optimiser steps of one pass over `rows`, as transformers' Trainer counts them; 0 where they fill no batch."""
        passes = rows // self.rows_per_pass if drop_last else math.ceil(rows / self.rows_per_pass)
        # The last step of an epoch accumulates what is left, however little.
        return math.ceil(passes / self.accumulation)
