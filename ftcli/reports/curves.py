"""The curves of runs: which measures of metrics.jsonl belong into one panel, and their points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HELD_OUT = "eval_"
"""What measures on held-out rows begin with."""
_NO_MEASURE = frozenset(
    {"schema", "step", "epoch", "elapsed_seconds", "tokens", "loss_over", "runtime", "samples_per_second"}
    | {"steps_per_second", "model_preparation_time", "step_time"}
)
"""What tells when a line was written and how long it took."""


@dataclass(frozen=True)
class Curve:
    """One measure of one run."""

    run: str
    key: str
    """As metrics.jsonl calls it."""
    points: tuple[tuple[float, float], ...]
    """(step, value), ordered by step; what is not finite is left out."""

    @property
    def held_out(self) -> bool:
        """Whether it was measured on held-out rows."""
        return self.key.startswith(HELD_OUT)


@dataclass(frozen=True)
class Panel:
    """Curves that are drawn over each other."""

    title: str
    curves: tuple[Curve, ...]
    main: bool
    """Whether it is one of those that most readers look for."""


@dataclass(frozen=True)
class _Known:
    title: str
    measures: tuple[str, ...]


_KNOWN = (
    _Known("loss", ("loss",)),
    _Known("reward", ("reward", "mean_reward")),
    _Known("preferred", ("rewards/accuracies", "accuracy")),
    _Known("margin", ("rewards/margins", "margin")),
    _Known("rewards of the pairs", ("rewards/chosen", "rewards/rejected")),
    _Known("KL divergence", ("kl", "policy/approx_kl")),
    _Known("learning rate", ("learning_rate",)),
    _Known("gradient norm", ("grad_norm",)),
    _Known("tokens per second", ("tokens_per_second",)),
    _Known("memory, GiB", ("peak_reserved_gib", "peak_allocated_gib", "peak_resident_gib")),
    _Known("length of answers, tokens", ("completions/mean_length",)),
)
"""The panels that stand first, in this order."""


def panels(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Panel]:
    """The panels of some runs: the known ones, then one for every other measure by name.

    Args:
        runs: the lines of metrics.jsonl by the name that the run is shown under.
    """
    curves: dict[str, list[Curve]] = {}
    for run, lines in runs.items():
        for key in sorted({key for line in lines for key in line}):
            measure = key.removeprefix(HELD_OUT)
            if measure not in _NO_MEASURE and (points := _points(lines, key)):
                curves.setdefault(measure, []).append(Curve(run, key, points))
    found = [
        Panel(known.title, tuple(_taken(curves, known.measures)), main=True)
        for known in _KNOWN
        if any(measure in curves for measure in known.measures)
    ]
    return found + [Panel(measure, tuple(curves[measure]), main=False) for measure in sorted(curves)]


def _taken(curves: dict[str, list[Curve]], measures: Iterable[str]) -> list[Curve]:
    return [curve for measure in measures for curve in curves.pop(measure, ())]


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    found = {line["step"]: line[key] for line in lines if _is_number(line.get("step")) and _is_number(line.get(key))}
    return tuple(sorted((float(step), float(value)) for step, value in found.items()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(points: Sequence[tuple[float, float]], width: int = 40) -> str:
    """A curve on one line of a terminal: the mean of each part of it, from the lowest to the highest block.

    Args:
        width: characters at most.
    """
    parts = min(width, len(points))
    means = []
    for part in range(parts):
        own = points[part * len(points) // parts : (part + 1) * len(points) // parts]
        means.append(sum(value for _, value in own) / len(own))
    low, high = min(means, default=0.0), max(means, default=0.0)
    if high == low:
        return _BLOCKS[0] * parts
    return "".join(_BLOCKS[round((mean - low) / (high - low) * (len(_BLOCKS) - 1))] for mean in means)
