"""Whatever may be trained is a job: a run, or a pipeline of runs and of stages that make data.

Commands ask here and never which kind they have: `resolve` for what is asked for, `resolve_folder` for what has begun.
"""

from __future__ import annotations

from pathlib import Path

from ftcli.cli.jobs.job import Job, JobFolder
from ftcli.cli.jobs.pipeline import PipelineFolder, PipelineJob
from ftcli.cli.jobs.run import RunFolder, RunJob
from ftcli.cli.jobs.synthesis import SynthesisFolder
from ftcli.config.compose import Request
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.runs import rundir

__all__ = ["Job", "JobFolder", "resolve", "resolve_folder"]


def resolve(request: Request) -> Job:
    """The job that a request asks for, composed and checked.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    pipeline = pipeline_request(request)
    return RunJob.composed(request) if pipeline is None else PipelineJob.composed(pipeline)


def resolve_folder(name: str, where: str) -> JobFolder:
    """The job that has begun in a folder, or under a run's name.

    Args:
        where: what named it, for messages.

    Raises:
        ConfigError: there is none.
    """
    if SynthesisFolder.is_at(Path(name)):
        return SynthesisFolder(Path(name), where)
    pipeline = rundir.find_pipeline(name)
    return RunFolder(rundir.require_run(name, where)) if pipeline is None else PipelineFolder(pipeline)
