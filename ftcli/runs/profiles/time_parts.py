"""The parts that the seconds of a profiled run are divided into. Each moment belongs to one, the innermost."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

IMPORT, TOKENISE, LOAD, PREPARE = "import", "tokenise", "load", "prepare"
DATA, FORWARD, BACKWARD, OPTIMISER = "data", "forward", "backward", "optimiser"
GENERATION, REWARDS, SCORING, WAIT = "generation", "rewards", "scoring", "wait"
LOG, SAVE, EVALUATE, TRACE, TRAINING, OTHER = "log", "save", "evaluate", "trace", "training", "other"

PARTS: Mapping[str, str] = MappingProxyType({
    IMPORT: "importing libraries",
    TOKENISE: "reading and tokenising rows",
    LOAD: "loading models",
    PREPARE: "preparing to train",
    DATA: "waiting for rows",
    FORWARD: "forward passes",
    BACKWARD: "backward passes",
    OPTIMISER: "optimiser",
    GENERATION: "generating answers",
    REWARDS: "rewards",
    SCORING: "passes without gradients",
    WAIT: "waiting for other processes",
    LOG: "logging",
    SAVE: "saving",
    EVALUATE: "evaluating",
    TRACE: "tracing operations",
    TRAINING: "rest of training",
    OTHER: "rest of the run",
})  # fmt: skip
"""Each part as a person reads it, in the order of a run."""

OF_STEPS = frozenset({DATA, FORWARD, BACKWARD, OPTIMISER, GENERATION, REWARDS, SCORING, WAIT, TRAINING})
"""The parts that steps are made of."""
WHOLE = frozenset({EVALUATE, SAVE})
"""The parts that are not divided further: the passes of an evaluation are no training."""
