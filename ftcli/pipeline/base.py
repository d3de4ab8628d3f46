"""What a pipeline declares about itself: its stages, and which stage's model goes where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: an ordinary run of a method, or a task that makes data."""

    name: str
    method: str = ""
    """The method of its run."""
    task: str = ""
    """What it makes in place of a run: generate, judge or revise."""
    role: str = ""
    """Of a task: who answers, generator or judge."""
    summary: str
    """What it makes, in a few words."""
    takes: Mapping[str, str] = field(default_factory=dict)
    """Settings that another stage gives: those that name a model, as `group.key`, and `data.path`; of a task `rows` and
    `backend.model`."""
    tiny: Mapping[str, Any] = field(default_factory=dict)
    """Settings, as `group.key`, with which the built-in model learns its built-in rows in minutes."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Stages in the order in which they run; each takes models of stages before it only."""

    name: str
    summary: str
    """One line that says when to choose it."""
    stages: tuple[Stage, ...]
    measured_by: str = ""
    """The stage by whose held-out measure every policy before it is measured too."""
    tiny_measure: Mapping[str, Any] = field(default_factory=dict)
    """Rewards by which the policies of the built-in world are measured, where no stage has a measure of its own."""
    paper: str

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)
