"""A stage as it is asked for is one of three things: a run, the making of data, or what stands ready in its place.

Each knows what of it pipeline.json keeps, from which it is composed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcli.methods.pipeline import Pipeline, Stage
from ftcli.models import sources
from ftcli.pipelines import synthesis_stage
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.run_spec import RunSpec
from ftcli.synthesis.synthesis_spec import SynthesisSpec

MODEL = "model.name_or_path"
"""The setting of a run that takes the model which another stage made."""
ROWS = "data.path"
"""The same of the rows that another stage made."""
ROWS_OF_TASK = "rows"
"""The same of a data-making stage."""
STAND_IN = "stage "
"""How a model begins that another stage is yet to make, in the spec of a data-making stage."""


@dataclass(frozen=True, kw_only=True)
class _Declared:
    """What every stage has: its declaration, and what it takes from the stages before it."""

    stage: Stage
    fed: tuple[str, ...] = ()
    """Settings that another stage gives. The user may have set some of those that the declaration names."""

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    def takes(self) -> dict[str, str]:
        """The stage that gives each setting."""
        return {setting: self.stage.takes[setting] for setting in self.fed}


@dataclass(frozen=True, kw_only=True)
class RunStage(_Declared):
    """A stage that trains: an ordinary run."""

    run: ResolvedRun

    @property
    def spec(self) -> RunSpec:
        """The run's spec."""
        return self.run.spec

    def remembered(self) -> dict[str, Any]:
        """Choices and settings, without where the run was to be written, which is the pipeline's business."""
        tree = {**self.spec.tree, "run": {**self.spec.tree["run"], "dir": None, "name": None}}
        return {"choices": dict(self.spec.choices), "tree": tree, "fed": list(self.fed)}


@dataclass(frozen=True, kw_only=True)
class SynthesisStage(_Declared):
    """A stage that makes data."""

    spec: SynthesisSpec

    def remembered(self) -> dict[str, Any]:
        """Choice and settings, without the model and the rows that another stage is to make."""
        backend = self.spec.backend
        own_model = None if str(backend.model).startswith(STAND_IN) else backend.model
        kept = synthesis_stage.remembered(replace(self.spec, backend=replace(backend, model=own_model)))
        if ROWS_OF_TASK not in self.fed:
            kept["values"]["data.path"] = self.spec.rows
        return {"make": kept, "fed": list(self.fed)}

    def placed(self, folder: Path) -> SynthesisStage:
        """The same inside the folder of its pipeline."""
        return replace(self, spec=replace(self.spec, dir=str(folder / self.name)))


@dataclass(frozen=True, kw_only=True)
class ReadyStage(_Declared):
    """A stage that does not run."""

    source: str
    """The model, run or rows that stand in its place."""

    def remembered(self) -> dict[str, Any]:
        """What stands in its place."""
        return {"ready": location(self.source)}


StageSpec = RunStage | SynthesisStage | ReadyStage


@dataclass(frozen=True, kw_only=True)
class PipelineSpec:
    """A pipeline as asked for, checked stage by stage."""

    pipeline: Pipeline
    name: str
    dir: Path
    stages: tuple[StageSpec, ...]
    built_in: bool = False
    """Whether it begins with the built-in model and rows, whose policies can be measured by rules."""

    def runs(self) -> Mapping[str, ResolvedRun]:
        """The run of each stage that trains."""
        return {each.name: each.run for each in self.stages if isinstance(each, RunStage)}

    def remembered(self) -> dict[str, Any]:
        """What the pipeline's file keeps of each stage, from which it is composed again."""
        return {each.name: each.remembered() for each in self.stages}


def location(name: str) -> str:
    """The folder of a run's or a local model, so that it means the same tomorrow; a hub id as it is."""
    source = sources.model_source(name)
    return source.location if source is not None else name
