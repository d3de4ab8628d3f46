"""What a pipeline declares about itself: its stages, and which stage's model goes where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ftcli.tiny import defaults


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: an ordinary run of a method, or a task that makes data."""

    name: str
    method: str = ""
    """The method of its run."""
    task: str = ""
    """What it makes in place of a run: generate, judge or revise."""
    role: str = ""
    """Who answers, generator or judge: of a task, or of a run whose rewards a judge gives."""
    summary: str
    """What it makes, in a few words."""
    takes: Mapping[str, str] = field(default_factory=dict)
    """Settings that another stage gives: those that name a model, as `group.key`, and `data.path`; of a task `rows` and
    `backend.model`."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """A setting `method.NAME` of a pipeline, which decides what stages it has."""

    default: Any
    text: str
    """What it decides, for the docs."""
    choices: tuple[str, ...] = ()
    """The values that there are; none: a whole number from 1."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Stages in the order in which they run; each takes models of stages before it only."""

    name: str
    summary: str
    """One line that says when to choose it."""
    stages: tuple[Stage, ...]
    measured_by: str = ""
    """The stage by whose held-out measure every policy before it is measured too."""
    paper: str
    options: Mapping[str, Option] = field(default_factory=dict)
    arrange: Callable[..., tuple[Stage, ...]] | None = None
    """The stages by the values of the options, where it has some."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """The values by which `stages` were arranged."""

    def arranged(self, chosen: Mapping[str, Any]) -> Pipeline:
        """The pipeline with some options set, and the stages that it then has."""
        if self.arrange is None:
            return self
        values = {name: chosen.get(name, option.default) for name, option in self.options.items()}
        return replace(self, stages=self.arrange(**values), chosen=values)

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def built_in(self, stage: Stage) -> dict[str, Any]:
        """What a stage needs to train the built-in model on its built-in rows, as `group.key`."""
        return defaults.stage_settings(self.name, stage.name, stage.role)

    @property
    def built_in_measures(self) -> Mapping[str, Any]:
        """Rewards by which the policies of the built-in world are measured, where no stage has a measure of its own."""
        return defaults.measures(self.name)
