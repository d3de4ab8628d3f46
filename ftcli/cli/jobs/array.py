"""The jobs of a sweep as one Slurm array: given to the scheduler together, and looked at when they have ended.

What each job came to is read from its run directory. A job that the array left open is submitted again, in an array of
those that are: it goes on from its newest checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftcli.build import gate
from ftcli.cli import jobs, output
from ftcli.cli.jobs.run import RunJob
from ftcli.cli.jobs.submission import submitted
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RANK_LOST
from ftcli.core.text import shell_word
from ftcli.launch import slurm
from ftcli.launch.profile import submits
from ftcli.launch.slurm import words_of
from ftcli.runs import run_end, rundir
from ftcli.settings.run_spec import RunSpec
from ftcli.sweeps.side_by_side import Queue
from ftcli.sweeps.sweep_folder import STUDY, Sweep, SweepJob
from ftcli.sweeps.sweep_request import SweepRequest


def goes_to_scheduler(spec: RunSpec) -> bool:
    """Whether a job is given to a scheduler here; inside a job of Slurm it runs where it is."""
    return submits(spec.hardware, os.environ)


def require_single(job: jobs.Job) -> None:
    """Refuse a job that is no single run where it would go to a scheduler.

    Raises:
        ConfigError: it is a pipeline.
    """
    if not isinstance(job, RunJob) and any(map(goes_to_scheduler, job.specs())):
        what = "each job of an array is a single run, and these are pipelines"
        fix = "start each with ftcli train, as a job of its own; or the sweep inside an allocation (salloc, sbatch)"
        raise ConfigError(Problem("hardware=slurm", what, fix))


def of(composed: Mapping[str, jobs.Job]) -> dict[str, RunJob]:
    """The jobs of a sweep that goes to a scheduler; none where each runs here.

    Raises:
        ConfigError: they are pipelines.
    """
    for job in composed.values():
        require_single(job)
    found = {name: job for name, job in composed.items() if isinstance(job, RunJob) and goes_to_scheduler(job.spec)}
    return found if len(found) == len(composed) else {}


def is_one(sweep: Sweep) -> bool:
    """Whether the jobs of a sweep go to a scheduler here: those of its run directories say so."""
    runs = [sweep.run_dir(job) for job in sweep.jobs if rundir.is_run(sweep.run_dir(job))]
    return any(goes_to_scheduler(gate.composed_anew(run)) for run in runs[:1])


def submit(sweep: Sweep, array: Mapping[str, RunJob], flags: Sequence[str]) -> int:
    """Give the jobs to a scheduler as one array, and write down its number; the lock of the sweep's folder is held.

    Raises:
        ConfigError: they differ in their hardware, a run directory is not empty, or there is no scheduler.
    """
    specs = [job.spec for job in array.values()]
    _require_alike(specs)
    words = {job.name: ["train", *job.words, *flags] for job in sweep.jobs}

    def directories() -> list[Path]:
        return [job.prepared(words[name]) for name, job in array.items()]

    sweep.array = submitted(specs[0], words_of(specs[0]), directories)
    sweep.write()
    _say_how_it_goes_on(sweep, flags)
    return EXIT_DONE


def _require_alike(specs: Sequence[RunSpec]) -> None:
    if any(spec.hardware != specs[0].hardware for spec in specs):
        what = "the jobs of an array have the same hardware, and these differ in it"
        raise ConfigError(Problem("hardware", what, "start a sweep for each"))


def _say_how_it_goes_on(sweep: Sweep, flags: Sequence[str]) -> None:
    again = " ".join(map(shell_word, ("ftcli", "sweep", "--resume", str(sweep.folder), *flags)))
    output.note(f"when it has ended, {again} prints the table, and submits again what is still open")


def look_at(sweep: Sweep, wanted: SweepRequest, flags: Sequence[str]) -> None:
    """Take note of what the jobs of an array came to, and submit again what is open and not queued.

    Raises:
        ConfigError: a job has no run directory, or cannot be submitted again.
    """
    left = _settle(sweep, _queue(sweep, wanted))
    if lost := [job.name for job in left if not rundir.is_run(sweep.run_dir(job))]:
        raise ConfigError(Problem(str(sweep.folder), f"{lost[0]} has no run directory", "start a new sweep"))
    if left:
        _submit_again(sweep, left, wanted.request.grants, flags)


def _queue(sweep: Sweep, wanted: SweepRequest) -> Queue:
    """What is told of the ends of jobs."""
    from ftcli.sweeps.job_queues import Grid, Search

    if sweep.kind != "search":
        return Grid(sweep)
    from ftcli.sweeps.optuna_study import Study

    def refuse(_: Mapping[str, str]) -> SweepJob:
        raise ConfigError(Problem(str(sweep.folder / STUDY), "has more jobs than the sweep", "start the search again"))

    study = Study(sweep.folder / STUDY, wanted.settings, wanted.space)
    while study.has_begun():  # so that each can be told of
        study.ask()
    return Search(sweep, study, wanted.settings, refuse)


def _settle(sweep: Sweep, queue: Queue) -> list[SweepJob]:
    """Take note of the jobs that have ended since; those that are still open."""
    for job in [job for job in sweep.jobs if job.end is None]:
        folder = sweep.run_dir(job)
        if not rundir.is_run(folder):
            continue
        end = run_end.read(folder)
        if rundir.read_result(folder) is not None:
            queue.ended(job, EXIT_DONE, stopped=False)
        elif end is not None and end.code not in (EXIT_DONE, EXIT_INTERRUPTED, EXIT_RANK_LOST):
            queue.ended(job, end.code, stopped=False)  # what stopped it or lost it, Slurm starts again
    return [job for job in sweep.jobs if job.end is None]


def _submit_again(sweep: Sweep, left: Sequence[SweepJob], grants: frozenset[str], flags: Sequence[str]) -> None:
    """Submit open jobs as an array, unless that of the sweep is at work or waits still; the folder's lock is held."""
    slurm.require_sbatch()
    if sweep.array is not None and slurm.is_queued(sweep.array):
        output.note(f"array {sweep.array} is at work, or waits: {len(left)} of {len(sweep.jobs)} jobs are open")
        return
    folders = [sweep.run_dir(job).resolve() for job in left]
    specs = [gate.opened(folder, grants, gate.TRAINS) for folder in folders]
    _require_alike(specs)
    sweep.array = submitted(specs[0], words_of(specs[0]), lambda: folders)
    sweep.write()
    _say_how_it_goes_on(sweep, flags)
