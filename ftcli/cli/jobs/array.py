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
from ftcli.cli.jobs.submission import Asked, show_script, submitted, together
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RANK_LOST
from ftcli.core.text import shell_word
from ftcli.launch import slurm
from ftcli.launch.profile import in_job, submits
from ftcli.launch.slurm import QueuedJob, job_of
from ftcli.runs import run_end, rundir
from ftcli.settings.run_spec import RunSpec
from ftcli.sweeps.side_by_side import Queue
from ftcli.sweeps.sweep_folder import STUDY, Sweep, SweepJob, begun_stages
from ftcli.sweeps.sweep_request import SweepRequest


def goes_to_scheduler(spec: RunSpec) -> bool:
    """Whether a job is given to a scheduler here; inside a job of Slurm it runs where it is."""
    return submits(spec.hardware, os.environ)


def of(composed: Mapping[str, jobs.Job]) -> Asked | None:
    """What a scheduler is asked for the jobs of a sweep that goes to one; None where each runs here.

    Raises:
        ConfigError: they differ in what they ask for.
    """
    asked = [job.asked() for job in composed.values()]
    found = [each for each in asked if each is not None]
    return together(found) if found and len(found) == len(asked) else None


def is_one(sweep: Sweep) -> bool:
    """Whether the jobs of a sweep go to a scheduler here: it has an array, or its run directories say so."""
    if in_job(os.environ):
        return False
    runs = [sweep.run_dir(job) for job in sweep.jobs if rundir.is_run(sweep.run_dir(job))]
    return sweep.array is not None or any(goes_to_scheduler(gate.composed_anew(run)) for run in runs[:1])


def submit(sweep: Sweep, asked: Asked, composed: Mapping[str, jobs.Job], flags: Sequence[str]) -> int:
    """Give the jobs to a scheduler as one array, and write down its number; the lock of the sweep's folder is held.

    Raises:
        ConfigError: a run directory is not empty, or there is no scheduler.
    """
    words = {job.name: ["train", *job.words, *flags] for job in sweep.jobs}

    def directories() -> list[Path]:
        return [job.prepared(words[name]) for name, job in composed.items()]

    sweep.array = submitted(asked, directories)
    sweep.write()
    _say_how_it_goes_on(sweep, flags)
    return EXIT_DONE


def show(sweep: Sweep, asked: Asked, composed: Mapping[str, jobs.Job], *, as_json: bool) -> int:
    """Print the plan of each job, and the one text that would be submitted for all."""
    for number, (name, job) in enumerate(composed.items(), 1):
        output.note(f"job {number} of {len(composed)}: {name}")
        job.plan(as_json=as_json, alone=False)
    if not as_json:
        show_script(asked, *(sweep.folder / name for name in composed))
    return EXIT_DONE


def _say_how_it_goes_on(sweep: Sweep, flags: Sequence[str]) -> None:
    again = " ".join(map(shell_word, ("ftcli", "sweep", "--resume", str(sweep.folder), *flags)))
    output.note(f"when it has ended, {again} prints the table, and submits again what is still open")


def look_at(sweep: Sweep, wanted: SweepRequest, flags: Sequence[str]) -> None:
    """Take note of what the jobs of an array came to, and submit again what is open and not queued.

    Raises:
        ConfigError: a job has no run directory, or cannot be submitted again.
    """
    left = _settle(sweep, _queue(sweep, wanted))
    if lost := [job.name for job in left if not _has_begun(sweep.run_dir(job))]:
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


def _has_begun(folder: Path) -> bool:
    return rundir.is_run(folder) or rundir.is_pipeline(folder)


def _settle(sweep: Sweep, queue: Queue) -> list[SweepJob]:
    """Take note of the jobs that have ended since; those that are still open."""
    for job in [job for job in sweep.jobs if job.end is None]:
        folder = sweep.run_dir(job)
        if not _has_begun(folder):
            continue
        ends = (run_end.read(place) for place in (folder, *begun_stages(folder)))
        end = next((each for each in ends if each is not None), None)
        if rundir.read_result(folder) is not None:
            queue.ended(job, EXIT_DONE, stopped=False)
        elif end is not None and end.code not in (EXIT_DONE, EXIT_INTERRUPTED, EXIT_RANK_LOST):
            queue.ended(job, end.code, stopped=False)  # what stopped it or lost it, Slurm starts again
    return [job for job in sweep.jobs if job.end is None]


def _submit_again(sweep: Sweep, left: Sequence[SweepJob], grants: frozenset[str], flags: Sequence[str]) -> None:
    """Submit open jobs as an array, unless they are at work or wait still; the folder's lock is held."""
    slurm.require_sbatch()
    if sweep.array is not None and QueuedJob(sweep.array).states():
        output.note(f"array {sweep.array} is at work, or waits: {len(left)} of {len(sweep.jobs)} jobs are open")
        return
    folders = [sweep.run_dir(job).resolve() for job in left]
    queued = {folder: job for folder in folders if (job := job_of(folder)) is not None and job.states()}
    for folder, job in queued.items():
        output.note(f"{folder.name} is at work, or waits, as job {job.number}")
    folders = [folder for folder in folders if folder not in queued]
    found = [jobs.resolve_folder(str(folder), str(folder)).asked(Request(grants=grants)) for folder in folders]
    if asked := [each for each in found if each is not None]:
        sweep.array = submitted(together(asked), lambda: folders)
        sweep.write()
        _say_how_it_goes_on(sweep, flags)
