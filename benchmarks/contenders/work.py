"""What a contender is asked to train, and what was seen of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORES = len(os.sched_getaffinity(0))
LONGEST = 2048
"""Tokens of the longest row, and of a packed one."""
RANK = 8
DROPPED = 3
"""Steps at the start that no speed is taken of."""

GRPO = {"num_generations": 8, "max_completion_length": 64, "temperature": 1.0, "beta": 0.0}
"""The settings of GRPO that all have; answers of a random model end nowhere before."""


class CannotDo(Exception):
    """A contender that lacks a method or a setting; the message says which."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A training that every contender does alike: one pass over some rows, or some steps of them."""

    method: str
    model: Path
    rows: Mapping[str, Path]
    """Files of the same rows, by kind."""
    packed: bool = False
    apart: bool = True
    """Whether packed documents are kept apart; False where a check must find that they are not."""
    grouped: bool = False
    """Rows of one length together, where a tool pads."""
    batch: int = 8
    steps: int | None = None
    """None: one pass."""
    longest: int = LONGEST
    bfloat16: bool = False
    """Whether to compute in bfloat16; else in float32, and a model whose files are of that type is asked for."""
    processes: int = 1
    workers: int = 1
    """Processes that prepare rows, where a tool has the choice."""
    pad: int
    begin: tuple[int, int]
    """The two tokens that begin a document."""


@dataclass(frozen=True)
class Contender:
    """How one tool is asked to do a piece of work."""

    name: str
    package: str
    methods: frozenset[str]
    arguments: Callable[[Work, Path], list[str]]
    """The words after its interpreter; writes what they name into the folder.

    Raises:
        CannotDo: it lacks the method or a setting.
    """
    settings: str
    """At which of its exact settings it ran."""
    alone: tuple[str, ...] = ()
    """As `peers.environment.python_of` takes it; none: our environment."""
    home: str = ""
    """Its environment's name, where training needs more than preparing rows does."""
    environment: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    """By method, the tensors of a batch that hold the tokens of its rows; else `input_ids`."""


@dataclass(frozen=True)
class Seen:
    """One run."""

    first_step_seconds: float
    """From the start of the command to the end of its first step."""
    tokens_per_second: float | None
    """Real tokens of the steps after the first DROPPED, by the time that these took."""
    step_seconds: float | None
    """Of a step after the first DROPPED, the mean."""
    padding: float
    """The share of positions that were padding, in all steps."""
    tokens: int
    steps: int
    peak_mib: float
    """Resident memory of the command's largest process."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON, rounded to the precision of the measurement."""
        speed = self.tokens_per_second
        return {
            "first_step_seconds": round(self.first_step_seconds, 2),
            "tokens_per_second": None if speed is None else round(speed, 1),
            "step_seconds": None if self.step_seconds is None else round(self.step_seconds, 4),
            "padding": round(self.padding, 3),
            "tokens": self.tokens,
            "steps": self.steps,
            "peak_mib": round(self.peak_mib),
            "seconds": round(self.seconds, 1),
        }
