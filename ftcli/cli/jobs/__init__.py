"""A job is a run, or a pipeline of training and synthesis stages.

Commands get their job here and need not know its kind: `resolve` for a request, `resolve_folder` for a job that has
begun. Each kind of job is imported when one is at hand: a run needs nothing of pipelines, and a request that cannot be
composed needs none of the checks; importing them takes longer than composing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.cli import output
from ftcli.config.compose import Request, compose
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.runs import rundir

if TYPE_CHECKING:
    from ftcli.cli.jobs.job import Job, JobFolder

__all__ = ["Job", "JobFolder", "like", "measured", "resolve", "resolve_folder"]


def resolve(request: Request) -> Job:
    """The job that a request describes, composed and checked.

    Raises:
        ConfigError: all problems found.
    """
    pipeline = pipeline_request(request)
    if pipeline is not None:
        from ftcli.cli.jobs.pipeline import PipelineJob

        return PipelineJob.composed(pipeline)
    composed = compose(request)
    from ftcli.cli.jobs.run import RunJob

    return RunJob.checked(composed)


def like(source: str | None, request: Request) -> Job:
    """The job that a request describes, on top of the configuration of an earlier one where `--from` names it.

    Raises:
        ConfigError: all problems found.
    """
    return resolve(request) if source is None else resolve_folder(source, f"--from {source}").like(request)


def measured(compose: Callable[[], Job]) -> Job:
    """A job whose models' architectures are known, where a worker can measure them.

    It is composed again if one had to be asked: what it found decides packing, and is counted in the plan.

    Raises:
        ConfigError: all problems found.
    """
    job = compose()
    from ftcli.plan.measure import measure

    return compose() if measure(job.specs(), output.note) else job


def resolve_folder(name: str, where: str) -> JobFolder:
    """The job in a folder, or under a run's name.

    Args:
        where: the argument that named it, for messages.

    Raises:
        ConfigError: there is none.
    """
    from ftcli.cli.jobs.pipeline import PipelineFolder
    from ftcli.cli.jobs.run import RunFolder
    from ftcli.cli.jobs.synthesis import SynthesisFolder
    from ftcli.core.errors import ConfigError, Problem
    from ftcli.core.text import shell_word
    from ftcli.sweeps.sweep_folder import is_sweep

    if SynthesisFolder.is_at(Path(name)):
        return SynthesisFolder(Path(name), where)
    if is_sweep(Path(name)):
        fix = f"name one of its jobs, or the sweep: ftcli sweep --resume {shell_word(name)}"
        raise ConfigError(Problem(where, f"{name} is a sweep, not a run", fix))
    pipeline = rundir.find_pipeline(name)
    return RunFolder(rundir.require_run(name, where)) if pipeline is None else PipelineFolder(pipeline)
