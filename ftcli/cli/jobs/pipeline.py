"""A pipeline: as it is asked for, and as its directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ftcli.cli import output
from ftcli.cli.jobs.job import Job, JobFolder, finished
from ftcli.cli.requirements import require_folders, require_here, require_hub
from ftcli.config.compose import Request
from ftcli.core.errors import EXIT_DONE, ConfigError, Problem
from ftcli.pipelines import pipeline_dir
from ftcli.pipelines.pipeline_dir import Begun
from ftcli.pipelines.pipeline_request import PipelineRequest
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.pipelines.stages import PipelineSpec, ReadyStage, RunStage, StageSpec, SynthesisStage
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import rundir
from ftcli.settings.ownership import ENDPOINT


@dataclass(frozen=True)
class PipelineJob(Job):
    """A pipeline as it is asked for."""

    spec: PipelineSpec
    request: Request

    @classmethod
    def composed(cls, wanted: PipelineRequest) -> PipelineJob:
        """The pipeline that a request asks for.

        Raises:
            ConfigError: everything that is wrong with any stage.
        """
        return cls(pipeline_spec(wanted), wanted.request)

    def check(self, *, as_json: bool) -> None:
        """Say that nothing is wrong, and how the stages hang together."""
        from ftcli.cli.render.pipeline import checked

        checked(self.spec, as_json=as_json)

    def plan(self, *, as_json: bool) -> None:
        """Print the graph, and the plan of every stage."""
        _show_plan(self.spec, as_json=as_json)

    def show(self, *, as_json: bool) -> None:
        """Print the configuration of every stage."""
        from ftcli.cli.render.pipeline import show_configuration

        show_configuration(self.spec, as_json=as_json)

    def start(self, argv: Sequence[str], *, as_json: bool) -> int:
        """Make the folder, run stage after stage, and report."""
        from ftcli.cli.render.pipeline import graph

        _require_here(self.spec, {})
        folder = pipeline_dir.create(self.spec, argv)
        output.note(f"pipeline {folder}: {graph(self.spec)}")
        # What the files of the new pipeline hold was typed, or granted, on this command line.
        request = replace(self.request, grants=self.request.grants | {ENDPOINT})
        return _run_stages(folder, request, {}, None, as_json=as_json)


@dataclass(frozen=True)
class PipelineFolder(JobFolder):
    """The directory of a pipeline."""

    folder: Path

    def like(self, request: Request) -> PipelineJob:
        """A new pipeline, with the stages that would come out the same taken over."""
        folder = self.folder
        wanted, _ = pipeline_dir.load_request(folder, request)
        spec = pipeline_spec(wanted)
        kept = pipeline_dir.reusable_stages(folder, wanted, spec.dir, spec.name)
        if len(kept) + sum(isinstance(each, ReadyStage) for each in spec.stages) == len(spec.stages):
            fix = f"change a stage, as stages.{spec.stages[-1].name}.seed=1; or anew: sh {folder / rundir.COMMAND}"
            raise ConfigError(Problem(f"--from {folder}", "every stage is finished and would come out the same", fix))
        for name, run in kept.items():
            output.note(f"stage {name}: taken over from {run}")
        return PipelineJob(pipeline_spec(pipeline_dir.with_ready(wanted, kept)), request)

    def resume(self, request: Request, *, dry_run: bool, as_json: bool) -> int:
        """Go on at the first stage that is not finished."""
        from ftcli.pipelines import stage_loop

        folder = self.folder
        wanted, _ = pipeline_dir.load_request(folder, request)
        state = stage_loop.state_with_overrides(folder, wanted) if request.overrides else None
        if rundir.read_result(folder) is not None and not request.overrides:
            anew = f"ftcli train --from {folder} stages.NAME.KEY=VALUE"
            output.note(f"{folder} is finished; to train a stage anew: {anew}")
            self.report(as_json=as_json)
            return EXIT_DONE
        rundir.require_free(folder)
        begun = stage_loop.resumable_stages(folder, wanted, output.note)
        stages = state["stages"] if state is not None else wanted.earlier
        spec = pipeline_spec(replace(wanted, request=replace(request, overrides=()), earlier=stages))
        if dry_run:
            for resumed, _ in begun.values():
                require_folders(resumed)
            _show_plan(_with_progress(spec, folder, begun), as_json=as_json, begun=begun)
            return EXIT_DONE
        _require_here(spec, begun)
        return _run_stages(folder, request, begun, state, as_json=as_json)

    def report(self, *, as_json: bool) -> None:
        """Print what every stage did, and what the policies on the way are worth."""
        _report(self.folder, as_json=as_json)


def _show_plan(spec: PipelineSpec, *, as_json: bool, begun: Begun = MappingProxyType({})) -> None:
    from ftcli.cli.render.pipeline import show_plan
    from ftcli.plan.outlook import plan

    show_plan(spec, {name: plan(run) for name, run in spec.runs().items()}, as_json=as_json, begun=begun)


def _require_here(spec: PipelineSpec, begun: Begun) -> None:
    """What training needs of this machine, for every stage."""
    from ftcli.synthesis.backend import require_backend

    for each in spec.stages:
        match each:
            case RunStage():
                require_here(begun[each.name][0] if each.name in begun else each.spec)
            case SynthesisStage():
                require_backend(each.spec.backend, each.spec.role)
            case ReadyStage() if not each.stage.task:
                require_hub(each.source, None, f"stages.{each.name}.model")


def _with_progress(spec: PipelineSpec, folder: Path, begun: Begun) -> PipelineSpec:
    """The pipeline with what is finished in its stages' places, and what has begun as it goes on."""
    stages = list[StageSpec]()
    for each in spec.stages:
        if not isinstance(each, ReadyStage) and rundir.read_result(folder / each.name) is not None:
            each = ReadyStage(stage=each.stage, source=str(folder / each.name), fed=each.fed)
        elif isinstance(each, RunStage) and each.name in begun:
            each = replace(each, run=ResolvedRun.of(begun[each.name][0]))
        elif isinstance(each, SynthesisStage):
            each = each.placed(folder)
        stages.append(each)
    return replace(spec, dir=folder, stages=tuple(stages))


def _run_stages(folder: Path, request: Request, begun: Begun, state: Mapping[str, Any] | None, *, as_json: bool) -> int:
    """Run what is not finished, once `state` is the pipeline.json; None leaves that as it is."""
    from ftcli.pipelines import stage_loop

    with rundir.exclusive(folder):
        if state is not None:
            rundir.write_json(folder / rundir.PIPELINE, state)
        code = stage_loop.run(folder, replace(request, overrides=()), output.note, begun)
    if code == EXIT_DONE:
        _report(folder, as_json=as_json)
    return code


def _report(folder: Path, *, as_json: bool) -> None:
    from ftcli.cli.render.pipeline import show_result

    result = finished(folder)
    if as_json:
        output.data(result)
    else:
        show_result(folder, result)
