"""What a pipeline declares: its stages, and which stage's result each of them takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ftcli.tiny import defaults


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: an ordinary run of a method, or a synthesis task."""

    name: str
    method: str = ""
    """The method of its run."""
    task: str = ""
    """The synthesis task, in place of a method: generate, judge or revise."""
    role: str = ""
    """The backend it uses, generator or judge: for a task, or for a run whose rewards come from a judge."""
    summary: str
    """What it produces, in a few words."""
    takes: Mapping[str, str] = field(default_factory=dict)
    """Settings → the earlier stage whose result they are: those that name a model, as `group.key`, and `data.path`; for
    a task `rows` and `backend.model`."""
    like: str = ""
    """Of a later round: the stage of the first round, whose settings hold for it too."""

    @property
    def held_back(self) -> frozenset[str]:
        """The settings of `like` that do not hold here: what each round takes from its own stages, and what is measured
        once."""
        model = {"model"} if "model.name_or_path" in self.takes else set()
        return frozenset({*self.takes, *model, "make.labelled"})


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option `method.NAME` of a pipeline, which decides its stages."""

    default: Any
    text: str
    """What it decides, for the docs."""
    choices: tuple[str | bool, ...] = ()
    """The allowed values; empty: a whole number from 1."""


MEASURE = "measure"
"""The option that all pipelines have."""
_MEASURE = Option(
    default=True,
    text="whether all policies along the way are measured at the end; a resume may change it",
    choices=(True, False),
)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Stages in the order in which they run; each takes results of earlier stages only."""

    name: str
    summary: str
    """One line that says when to choose it."""
    stages: tuple[Stage, ...]
    measured_by: str = ""
    """The stage whose held-out metric is also measured on every policy before it."""
    paper: str
    options: Mapping[str, Option] = field(default_factory=dict)
    arrange: Callable[..., tuple[Stage, ...]] | None = None
    """The stages for given option values; None where it has no options."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """The option values of `stages`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", {**self.options, MEASURE: _MEASURE})

    def arranged(self, chosen: Mapping[str, Any]) -> Pipeline:
        """The pipeline with these options set, and the stages that follow from them."""
        values = {name: chosen.get(name, option.default) for name, option in self.options.items()}
        own = {name: value for name, value in values.items() if name != MEASURE}
        return replace(self, stages=self.arrange(**own) if self.arrange else self.stages, chosen=values)

    @property
    def measures(self) -> bool:
        """Whether its policies are measured at the end."""
        return bool(self.chosen.get(MEASURE, True))

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def built_in(self, stage: Stage) -> dict[str, Any]:
        """What a stage needs to train the built-in model on its built-in rows, as `group.key`."""
        return defaults.stage_settings(self.name, stage.name, stage.role)

    @property
    def built_in_measures(self) -> Mapping[str, Any]:
        """Rewards that measure the policies of the built-in world where no stage has a metric of its own."""
        return defaults.measures(self.name)
