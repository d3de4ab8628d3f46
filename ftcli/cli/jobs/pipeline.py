"""A pipeline: as a request, and as a directory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ftcli.build import gate
from ftcli.cli import output
from ftcli.cli.jobs.job import Job, JobFolder, finished
from ftcli.cli.jobs.submission import Asked, show_script, submit
from ftcli.cli.render import configuration
from ftcli.cli.requirements import (
    require_disk,
    require_folders,
    require_here,
    require_hub,
    require_named,
    require_rows,
)
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.plugins import plugin_loading
from ftcli.core.text import shell_word
from ftcli.launch import slurm
from ftcli.launch.profile import submits
from ftcli.launch.slurm import Words
from ftcli.pipelines import pipeline_dir
from ftcli.pipelines.one_job import job_spec
from ftcli.pipelines.pipeline_dir import Begun
from ftcli.pipelines.pipeline_request import PipelineRequest
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.pipelines.stages import PipelineSpec, ReadyStage, RunStage, StageSpec, SynthesisStage
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import provenance, resume_line, rundir
from ftcli.runs.stop_signals import Stopped
from ftcli.settings.backends import ENDPOINTS
from ftcli.settings.ownership import ENDPOINT, FLAGS, REMOTE_CODE
from ftcli.settings.run_spec import RunSpec

if TYPE_CHECKING:
    from ftcli.reports.run_record import RunRecord


@dataclass(frozen=True)
class PipelineJob(Job):
    """A requested pipeline."""

    spec: PipelineSpec
    request: Request
    answers: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    """By stage, what an endpoint answered in another pipeline: files by their place in the stage's folder."""

    @classmethod
    def composed(cls, wanted: PipelineRequest) -> PipelineJob:
        """The pipeline that a request describes.

        Raises:
            ConfigError: all problems of all stages.
        """
        return cls(pipeline_spec(wanted), wanted.request)

    def specs(self) -> Sequence[RunSpec]:
        """The specs of its training stages."""
        return [run.spec for run in self.spec.runs().values()]

    def runs(self) -> Sequence[ResolvedRun]:
        """Its training stages."""
        return [*self.spec.runs().values()]

    def runs_by_stage(self) -> Mapping[str, RunSpec]:
        """The specs of its training stages by name."""
        return {name: run.spec for name, run in self.spec.runs().items()}

    def unnamed(self) -> Mapping[str, str]:
        """Those of its stages which no earlier stage gives; one that several have is named for the whole."""
        found: dict[str, dict[str, str]] = {}
        for each in self.spec.stages:
            for key, wanted in each.run.unnamed.items() if isinstance(each, RunStage) else ():
                if key not in each.fed:
                    found.setdefault(key, {})[f"stages.{each.name}.{key}"] = wanted
        several = {key: next(iter(own.values())) for key, own in found.items() if len(own) > 1}
        return {name: wanted for own in found.values() if len(own) == 1 for name, wanted in own.items()} | several

    def flags(self) -> set[str]:
        """Those of its stages."""
        return _flags(self.spec)

    def check(self, *, as_json: bool) -> None:
        """Print that there are no problems, and the graph of the stages."""
        from ftcli.cli.render.pipeline import checked

        checked(self.spec, as_json=as_json)
        configuration.still_to_be_named(self.unnamed())

    def plan(self, *, as_json: bool, alone: bool = True) -> None:
        """Print the graph, and the plan of every stage; where it would be one job of a scheduler, that job's text."""
        _show_plan(self.spec, as_json=as_json)
        if alone and not as_json:
            _show_job(self.asked(), self.spec.dir)

    def asked(self) -> Asked | None:
        """As one job, in which its stages run."""
        return _asked(self.spec, self.request)

    def show(self, *, as_json: bool) -> None:
        """Print the configuration of every stage."""
        from ftcli.cli.render.pipeline import show_configuration

        show_configuration(self.spec, as_json=as_json)

    def start(self, argv: Sequence[str], *, as_json: bool, anyway: bool = False) -> int:
        """Create the folder, run all stages in order, and report; or give the pipeline to a scheduler."""
        require_named(self.unnamed())
        if asked := self.asked():
            return submit(asked, lambda: self.prepared(argv))
        _require_here(self.spec, {})
        require_stage_rows(self.spec)
        if not anyway:
            require_disk([*self.spec.runs().values()])
        folder = self.prepared(argv)
        # Everything in the files of the new pipeline was typed, or granted, on this command line. Not so what models
        # that it names ship: whether they run code is not its files' to say.
        request = replace(self.request, grants=self.request.grants | (FLAGS - {REMOTE_CODE}))
        with rundir.exclusive(folder):
            resume_line.remember(_typed_again(self.spec, self.request))
            return _run_stages(folder, request, {}, None, as_json=as_json)

    def prepared(self, argv: Sequence[str]) -> Path:
        """Create the folder, with what a resume needs.

        Raises:
            ConfigError: it cannot be created, or is not empty.
        """
        from ftcli.cli.render.pipeline import graph

        folder = pipeline_dir.create(self.spec, argv, self.answers)
        output.note(f"pipeline {folder}: {graph(self.spec)}")
        for line in self.spec.rounds:
            output.note(line)
        return folder


@dataclass(frozen=True)
class PipelineFolder(JobFolder):
    """The directory of a pipeline."""

    folder: Path

    def like(self, request: Request) -> PipelineJob:
        """A new pipeline that reuses the stages whose result would be the same."""
        folder = self.folder
        wanted, _ = pipeline_dir.load_request(folder, request, locate="from")
        for note in wanted.moved.notes:
            output.note(f"{note.key} is {note.value} here ({note.why})")
        spec = pipeline_spec(wanted)
        reusable = pipeline_dir.reusable_stages(folder, wanted, spec.dir, spec.name)
        if len(reusable) + sum(isinstance(each, ReadyStage) for each in spec.stages) == len(spec.stages):
            seed = f"stages.{spec.stages[-1].name}.seed=1"
            fix = f"change a stage, for example {seed}; or start it again, as it was started"
            what = "every stage is finished and its result would be the same"
            raise ConfigError(Problem(f"--from {folder}", what, fix))
        return PipelineJob(pipeline_spec(pipeline_dir.with_ready(wanted, reusable)), request)

    def resume(self, request: Request, *, dry_run: bool, as_json: bool, anyway: bool = False) -> int:
        """Resume at the first stage that is not finished."""
        folder = self.folder
        if rundir.read_result(folder) is not None and not request.overrides:
            command = f"ftcli train --from {shell_word(folder)} stages.NAME.KEY=VALUE"
            output.note(f"{folder} is finished; to train a stage again: {command}")
            self.report(as_json=as_json)
            return EXIT_DONE
        slurm.require_not_queued(folder, os.environ)
        if dry_run:
            rundir.require_free(folder)
            spec, begun, _ = _as_it_goes_on(folder, request)
            for resumed, _ in begun.values():
                require_folders(resumed)
            _show_plan(_with_progress(spec, folder, begun), as_json=as_json, begun=begun)
            if not as_json:
                _show_job(_asked(replace(spec, dir=folder), request), folder)
            return EXIT_DONE
        with rundir.exclusive(folder):
            request = pipeline_dir.adopt(folder, request, output.note)
            spec, begun, state = _as_it_goes_on(folder, request)
            asked = _asked(replace(spec, dir=folder), request)
            if asked is None:
                _require_here(spec, begun)
                if not anyway:
                    require_disk([*spec.runs().values()], folder)
                resume_line.remember(_typed_again(spec, request))
                return _run_stages(folder, request, begun, state, as_json=as_json)
            _keep_for_job(folder, request, begun, state)
        return submit(asked, folder.resolve)  # it takes the lock itself, as whoever submits a run

    def asked(self, request: Request) -> Asked | None:
        """As one job, in which the stages that are left run."""
        spec, _, _ = _as_it_goes_on(self.folder, request)
        return _asked(replace(spec, dir=self.folder), request)

    def report(self, *, as_json: bool) -> None:
        """Print the result of every stage, and the metrics of the policies along the way; else where each stage is."""
        if rundir.read_result(self.folder) is not None:
            _report(self.folder, as_json=as_json)
            return
        from ftcli.cli.render.pipeline import show_stages

        show_stages(self.folder, self.records(), as_json=as_json)

    def records(self) -> list[RunRecord]:
        """Those of its training stages that have begun."""
        return self._records

    @cached_property
    def _records(self) -> list[RunRecord]:
        """Read once for the text and for the page."""
        from ftcli.reports.run_record import run_record

        names = rundir.read_pipeline(self.folder)["stages"]
        return [run_record(self.folder / name, name) for name in names if rundir.is_run(self.folder / name)]


def _as_it_goes_on(folder: Path, request: Request) -> tuple[PipelineSpec, Begun, dict[str, Any] | None]:
    """A pipeline that is resumed, its stages that have begun, and pipeline.json where overrides change it."""
    from ftcli.pipelines import stage_loop

    wanted, _ = pipeline_dir.load_request(folder, request, locate="resume")
    request = wanted.request
    state = stage_loop.state_with_overrides(folder, wanted) if request.overrides else None
    begun = stage_loop.resumable_stages(folder, wanted, output.note)
    stages = state["stages"] if state is not None else wanted.earlier
    return pipeline_spec(replace(wanted, request=replace(request, overrides=()), earlier=stages)), begun, state


def _show_plan(spec: PipelineSpec, *, as_json: bool, begun: Begun = MappingProxyType({})) -> None:
    from ftcli.cli.render.pipeline import show_plan
    from ftcli.plan.outlook import plan

    runs = [each for each in spec.stages if isinstance(each, RunStage)]
    outlooks = {each.name: plan(each.run, stand_in=each.rows_are_to_come) for each in runs}
    show_plan(spec, outlooks, as_json=as_json, begun=begun)


def _require_here(spec: PipelineSpec, begun: Begun) -> None:
    """Check that this machine has what every stage needs."""
    from ftcli.synthesis.backend import require_backend

    for each in spec.stages:
        match each:
            case RunStage():
                require_here(begun[each.name][0] if each.name in begun else each.spec)
            case SynthesisStage():
                require_backend(each.spec.backend, each.spec.role)
            case ReadyStage() if not each.stage.task:
                require_hub(each.source, None, f"stages.{each.name}.model")


def require_stage_rows(spec: PipelineSpec) -> None:
    """Check that the rows which no stage makes are here, or download them.

    Raises:
        ConfigError: a set is not here, and cannot be downloaded.
    """
    for each in spec.stages:
        if isinstance(each, RunStage):
            require_rows(each.spec, each.fed)


def _asked(spec: PipelineSpec, request: Request) -> Asked | None:
    """What a scheduler is asked for, where the pipeline is given to one from here; inside its job it runs.

    What a resume changes is in pipeline.json by the time that the job reads it.
    """
    job = job_spec(spec)
    if job is None or not submits(job.hardware, os.environ):
        return None
    return Asked(spec=job, words=Words(flags=_typed_again(spec, request)))


def _show_job(asked: Asked | None, folder: Path) -> None:
    """Print what would be submitted, where the pipeline would be one job of a scheduler."""
    if asked is not None:
        show_script(asked, folder)


def _keep_for_job(folder: Path, request: Request, begun: Begun, state: Mapping[str, Any] | None) -> None:
    """Write what a resume changes to pipeline.json, which the job reads; the lock of the pipeline is held.

    Raises:
        ConfigError: it changes a stage that has begun, or there is no scheduler here.
    """
    what = "changes a stage that has begun, and a job that is queued again would meet it finished"
    fix = f"resume it inside an allocation (salloc, sbatch): ftcli train --resume {shell_word(folder)} and the change"
    if late := [text for text in request.overrides if any(text.startswith(f"stages.{name}.") for name in begun)]:
        raise ConfigError(*(Problem(text, what, fix) for text in late))
    slurm.require_sbatch()
    if state is not None:
        rundir.write_json(folder / rundir.PIPELINE, state)


def _with_progress(spec: PipelineSpec, folder: Path, begun: Begun) -> PipelineSpec:
    """The pipeline with its finished stages reused and the stages that have begun as they will resume."""
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
    """Write `state` to pipeline.json, unless it is None, and run the unfinished stages; its lock is held."""
    from ftcli.pipelines import stage_loop

    if state is not None:
        rundir.write_json(folder / rundir.PIPELINE, state)
    try:
        code = stage_loop.run(folder, replace(request, overrides=()), output.note, begun)
    except Stopped as stopped:  # between two stages, or while all are measured
        said = "" if stopped.reported else f"{stopped}; "
        output.note(f"{said}{resume_line.resume_with(folder)}")
        stopped.reported = True
        raise
    if code == EXIT_DONE:
        _report(folder, as_json=as_json)
    return code


def _typed_again(spec: PipelineSpec, request: Request) -> list[str]:
    """What the line that resumes a pipeline has to have: its group folders, and the flags of its stages."""
    folders = [word for each in request.config_dirs for word in ("--config-dir", str(each))]
    return [*folders, *plugin_loading.words(), *sorted(_flags(spec))]


def _flags(spec: PipelineSpec) -> set[str]:
    """The flags that the stages need."""
    flags = {flag for run in spec.runs().values() for flag in gate.flags_needed(run.spec)}
    asked = [each.spec.backend.type for each in spec.stages if isinstance(each, SynthesisStage)]
    return flags | {ENDPOINT for kind in asked if kind in ENDPOINTS}


def _report(folder: Path, *, as_json: bool) -> None:
    from ftcli.cli.render.pipeline import show_result

    result = finished(folder)
    if as_json:
        output.data({**result, provenance.KEY: provenance.of_folder(folder)})
    else:
        with rundir.stored(folder):
            show_result(folder, result)
