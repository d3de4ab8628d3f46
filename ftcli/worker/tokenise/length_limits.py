"""The length limit of a run, and how longer rows are treated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.data.auto_length import auto_length
from ftcli.data.row_ledger import OVERLONG, UNTRAINED, quantiles
from ftcli.methods.method import Method
from ftcli.settings.groups import DataSettings
from ftcli.worker.tokenise.packing import CUTS_ROWS


@dataclass(frozen=True)
class Fitting:
    """How rows are made to fit."""

    max_length_tokens: int | None
    """None derives it from the rows; `why` then holds the reason."""
    overflow: str
    position_limit: int | None = None
    block: int | None = None
    """Block length of a method that splits text into blocks."""
    packing: str | None = None
    """TRL's packing strategy, or None if rows are not packed."""
    why: str = "set"

    def resolved(self, lengths: dict[int, int]) -> Fitting:
        """With the length derived from {length: rows}."""
        if self.max_length_tokens is not None:
            return self
        length, why = auto_length(quantiles(lengths), self.position_limit, self.block)
        return replace(self, max_length_tokens=length, why=why)

    @property
    def limit(self) -> int:
        """The resolved length."""
        assert self.max_length_tokens is not None
        return self.max_length_tokens

    def too_long(self, length: int | str) -> str:
        """What is wrong with a row of `length` tokens."""
        return f"is {length} tokens long; data.max_length_tokens is {self.limit}"

    @property
    def lost(self) -> str:
        """The reason for dropping a row of which nothing trainable fits."""
        return UNTRAINED if self.overflow == "truncate_right" else OVERLONG

    @property
    def packs_whole(self) -> bool:
        """Whether rows go to a packer that splits them itself."""
        return self.overflow == "split" and self.packing in CUTS_ROWS


def never_ends(path: str, overflow: str) -> Problem:
    """The problem that no answer of a set trains an end token."""
    what = "no answer ends with a trained end token, so the model would never learn to stop"
    if overflow == "truncate_right":
        return Problem(path, what, "raise data.max_length_tokens, or set data.overflow=drop")
    return Problem(
        path, what, "the chat template must end answers with one of the model's end tokens (see ftcli data preview)"
    )


def fitting(data: DataSettings, method: Method, config: Any, position_limit: int | None) -> Fitting:
    """The length limit and overflow of a run, with the method's defaults where the spec leaves them open."""
    overflow = method.overflow if data.overflow == "auto" else data.overflow
    if overflow == "split" and method.task == "preference":
        what = f"{method.name} compares whole answers, which cannot be split"
        raise ConfigError(Problem("data.overflow", what, "use drop, error, truncate_left or truncate_right"))
    length = data.max_length_tokens if isinstance(data.max_length_tokens, int) else None
    packing = config.packing_strategy if getattr(config, "packing", False) else None
    return Fitting(length, overflow, position_limit, method.block_tokens, packing)
