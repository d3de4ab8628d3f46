"""The three kinds of stage: a training run, synthesis, or a finished model or rows that are reused.

Each knows its entry in pipeline.json, from which it can be composed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcli.build.derive_training import replayed_of
from ftcli.core import paths
from ftcli.methods.pipeline import Pipeline, Stage
from ftcli.models import sources
from ftcli.pipelines import synthesis_stage
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.run_spec import RunSpec
from ftcli.synthesis.synthesis_spec import SynthesisSpec

MODEL = "model.name_or_path"
"""The setting of a run that takes the model of another stage."""
ROWS = "data.path"
"""The setting of a run that takes the rows of another stage."""
ROWS_OF_TASK = "rows"
"""The setting of a synthesis stage that takes the rows of another stage."""
STAND_IN = "stage "
"""Prefix that, in the spec of a synthesis stage, stands for a model which another stage has yet to train."""


@dataclass(frozen=True, kw_only=True)
class _Declared:
    """What every stage has: its declaration, and what it takes from earlier stages."""

    stage: Stage
    fed: tuple[str, ...] = ()
    """Settings taken from another stage: those of the declaration that the user has not set."""

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    def takes(self) -> dict[str, str]:
        """The stage from which each setting is taken."""
        return {setting: self.stage.takes[setting] for setting in self.fed}


@dataclass(frozen=True, kw_only=True)
class RunStage(_Declared):
    """A training stage: an ordinary run."""

    run: ResolvedRun

    @property
    def spec(self) -> RunSpec:
        """The run's spec."""
        return self.run.spec

    @property
    def rows_are_to_come(self) -> bool:
        """Whether built-in rows stand in the place of those that an earlier stage has yet to make."""
        return ROWS in self.fed and paths.is_builtin(self.spec.data.path)

    def remembered(self) -> dict[str, Any]:
        """Choices and settings, without the run's name and directory, which the pipeline sets."""
        tree = {**self.spec.tree, "run": {**self.spec.tree["run"], "dir": None, "name": None}}
        known = {"choices": dict(self.spec.choices), "tree": tree, "fed": list(self.fed)}
        return {**known, "warmup_from_zero": self.spec.warmup_from_zero, "resolved": replayed_of(self.spec)}


@dataclass(frozen=True, kw_only=True)
class SynthesisStage(_Declared):
    """A synthesis stage."""

    spec: SynthesisSpec

    def remembered(self) -> dict[str, Any]:
        """Choice and settings, without the model and rows that come from another stage."""
        backend = self.spec.backend
        own_model = None if str(backend.model).startswith(STAND_IN) else backend.model
        kept = synthesis_stage.remembered(replace(self.spec, backend=replace(backend, model=own_model)))
        if ROWS_OF_TASK not in self.fed:
            kept["values"]["data.path"] = self.spec.rows
        return {"make": kept, "fed": list(self.fed)}

    def placed(self, folder: Path) -> SynthesisStage:
        """The same stage, with its folder inside the pipeline's."""
        return replace(self, spec=replace(self.spec, dir=str(folder / self.name)))


@dataclass(frozen=True, kw_only=True)
class ReadyStage(_Declared):
    """A stage that does not run, because a finished model or rows are reused for it."""

    source: str
    """The model, run or rows that are reused."""

    def remembered(self) -> dict[str, Any]:
        """The location of what is reused."""
        return {"ready": location(self.source)}


StageSpec = RunStage | SynthesisStage | ReadyStage


@dataclass(frozen=True, kw_only=True)
class PipelineSpec:
    """A pipeline, composed and checked stage by stage."""

    pipeline: Pipeline
    name: str
    dir: Path
    stages: tuple[StageSpec, ...]
    built_in: bool = False
    """Whether it starts from the built-in model and rows, whose policies can be measured by rules."""
    rounds: tuple[str, ...] = ()
    """What later rounds have of the first, and what they set themselves, a line each."""

    def runs(self) -> Mapping[str, ResolvedRun]:
        """The run of each training stage."""
        return {each.name: each.run for each in self.stages if isinstance(each, RunStage)}

    def remembered(self) -> dict[str, Any]:
        """Each stage's entry in pipeline.json, from which it can be composed again."""
        return {each.name: each.remembered() for each in self.stages}


def location(name: str) -> str:
    """The folder of a run's model or of a local model, so that the name stays valid; a hub id unchanged."""
    source = sources.model_source(name)
    return source.location if source is not None else name
