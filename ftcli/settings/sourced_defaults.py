"""A default with the place that it was taken from, so that a table can show why it is what it is.

A method and an adapter declare their training defaults with these; docs/defaults.md is generated from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

BILLION = 1_000_000_000
UNKNOWN_PARAMETERS = 8 * BILLION
"""The size that a model of unknown shape is taken for: most models that are fine-tuned are near it."""


@dataclass(frozen=True, kw_only=True)
class Default:
    """One default, and where it comes from."""

    value: Any
    source: str
    """The paper, recipe or documentation, with its own value where that differs."""
    measured: str = ""
    """What a measurement of ours says of it, and where; empty where none can tell."""


@dataclass(frozen=True)
class BySize:
    """A default that depends on the model's size: largest size in billions of parameters → value, sizes ascending."""

    bands: Mapping[float, Default]

    def at(self, parameters: int | None) -> Default:
        """The default for a model of that many parameters; None is unknown."""
        billions = (UNKNOWN_PARAMETERS if parameters is None else parameters) / BILLION
        return next(found for most, found in self.bands.items() if billions <= most)

    def named(self) -> Iterator[tuple[str, Default]]:
        """Each default with the sizes that it holds for, in words."""
        below = 0.0
        for most, found in self.bands.items():
            parts = [f"above {below:g}B"] * bool(below) + [f"to {most:g}B"] * math.isfinite(most)
            yield " ".join(parts) or "every size", found
            below = most


def same_for_all(default: Default) -> BySize:
    """A default that is the same for every size."""
    return BySize({math.inf: default})
