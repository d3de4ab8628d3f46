"""`ftcli sweep`: search settings with Optuna, each job a run of its own. `ftcli train -m` runs every combination.

Both end in a table, the best job first, and in results.json; `ftcli sweep --resume SWEEP` goes on with either.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ftcli.cli import arguments, jobs, output
from ftcli.cli.jobs import array, searching
from ftcli.cli.jobs.submission import Asked
from ftcli.cli.requirements import require_named
from ftcli.config.compose import Request
from ftcli.config.credentials import held_by, masked
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_CONFIG, EXIT_DONE, EXIT_INTERRUPTED
from ftcli.core.plugins import plugin_loading
from ftcli.core.text import shell_word
from ftcli.launch.local import ended
from ftcli.launch.profile import has_several
from ftcli.runs import rundir
from ftcli.runs.stop_signals import Stopped, send
from ftcli.settings.run_spec import RunSpec
from ftcli.sweeps import run_table, side_by_side, sweep_request
from ftcli.sweeps.job_names import job_name
from ftcli.sweeps.side_by_side import Slot
from ftcli.sweeps.sweep_folder import RESULTS, STUDY, Sweep, SweepJob, is_sweep, read_sweep
from ftcli.sweeps.sweep_request import SweepRequest

SUMMARY = "search settings with Optuna, a run a job; resumable, ends in a table"
ORDER = 12

_PATIENCE_SECONDS = 600
"""How long a job that a killed sweep left behind may take to save and end."""


def run(argv: Sequence[str]) -> int:
    """Search, or resume a search or a sweep over every combination."""
    parser = arguments.composing("sweep", __doc__ or "")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the whole space and plan one job; with --resume, show where it stands",
    )
    parser.add_argument("--resume", metavar="SWEEP", help="go on with a sweep, by its folder; also one of train -m")
    options = arguments.parse(parser, argv)
    if options.resume is not None:
        return _resume(options)
    words = arguments.overrides(options)
    wanted = sweep_request.requested(words, _request(options), search=True)
    first = searching.checked(wanted)
    sweep = _new(wanted, words, "search")

    def first_job() -> jobs.Job:
        return jobs.resolve(_with(wanted, wanted.words(_first_point(wanted))))

    if options.dry_run and not array.goes_to_scheduler(first):
        jobs.measured(first_job).plan(as_json=options.json)
        return EXIT_DONE
    if options.dry_run:
        with tempfile.TemporaryDirectory(prefix="ftcli-") as folder:
            asked, composed = _draw_all(sweep, wanted, first, Path(folder) / STUDY)
        return array.show(sweep, asked, composed, as_json=options.json)
    require_named(first_job().unnamed())
    with rundir.created(wanted.folder):
        sweep.write()
        find = _search_together if array.goes_to_scheduler(first) else _search
        return find(sweep, wanted, first, options)


def multirun(options: argparse.Namespace) -> int:
    """`ftcli train -m`: a job for every combination of the listed values; one that fails ends no other."""
    words = arguments.overrides(options)
    wanted = sweep_request.requested(words, _request(options), search=False)
    sweep = _new(wanted, words, "grid")
    composed, refused = _combinations(sweep, wanted)
    asked = array.of(composed)
    if refused and (asked or not composed):
        raise ConfigError(*dict.fromkeys(problem for error in refused for problem in error.problems))
    for error in refused:
        output.problems(error, as_json=False)
    if options.dry_run:
        if asked:
            return array.show(sweep, asked, composed, as_json=options.json)
        return _dry_run(sweep, options)
    require_named({key: word for job in composed.values() for key, word in job.unnamed().items()})
    if asked:
        with rundir.created(wanted.folder):
            sweep.write()
            return array.submit(sweep, asked, composed, _flags(options))
    slots = _slots(wanted, [spec for job in composed.values() for spec in job.specs()])
    with rundir.created(wanted.folder):
        sweep.write()
        return _grid(sweep, slots, options)


def _request(options: argparse.Namespace) -> Request:
    """The grants and the folders of groups of a command line, without its overrides."""
    return arguments.request(argparse.Namespace(**{**vars(options), "overrides": []}), tell=False)


def _flags(options: argparse.Namespace) -> list[str]:
    """The flags that each job needs too."""
    folders = [word for folder in options.config_dir for word in ("--config-dir", str(folder))]
    folders += [*plugin_loading.words(), *(["--anyway"] if getattr(options, "anyway", False) else [])]
    return folders + [flag for flag in arguments.GRANTS if getattr(options, flag.strip("-").replace("-", "_"))]


def _with(wanted: SweepRequest, words: Sequence[str]) -> Request:
    return replace(wanted.request, overrides=tuple(words))


def _new(wanted: SweepRequest, words: Sequence[str], kind: str) -> Sweep:
    """A sweep of these words, which are saved.

    Raises:
        ConfigError: they hold a password.
    """
    if held := held_by(list(words)):
        what = f"holds {held}, which would be saved in the folder of the sweep"
        raise ConfigError(Problem("the sweep", what, "keep it in ~/.netrc, or in the environment"))
    named = "eval_loss" if kind == "grid" else wanted.settings.measure
    return Sweep(
        folder=wanted.folder, kind="grid" if kind == "grid" else "search", words=[*words], place=os.getcwd(),
        measure=named, recipe=wanted.recipe,
    )  # fmt: skip


def _job(
    sweep: Sweep, wanted: SweepRequest, varied: Mapping[str, str], words: Sequence[str], seed: int | None
) -> tuple[SweepJob, jobs.Job | ConfigError]:
    """A job with its run directory, and what it composes to, or why it was refused.

    Args:
        seed: of the first job, which draws the rows that all hold out; None for the first itself.
    """
    name = job_name(varied, [job.name for job in sweep.jobs])
    words = [*words, f"run.dir={sweep.folder / name}"]
    try:
        composed = jobs.resolve(_with(wanted, words))
        own = composed.specs()[-1].seed if seed is None else seed
        if shared := sweep_request.shared_words(composed.runs_by_stage(), own, wanted.settings.jobs or 1):
            words = [*words, *shared]
            composed = jobs.resolve(_with(wanted, words))
    except ConfigError as error:
        cause = masked("; ".join(f"{each.where}: {each.what}" for each in error.problems))
        return SweepJob(name=name, varied=varied, words=(), end="failed", code=EXIT_CONFIG, cause=cause), error
    return SweepJob(name=name, varied=varied, words=tuple(words)), composed


def _combinations(sweep: Sweep, wanted: SweepRequest) -> tuple[dict[str, jobs.Job], list[ConfigError]]:
    """Add a job for each combination to a sweep; what they compose to, by name, and why others were refused."""
    found: dict[str, jobs.Job] = {}
    refused: list[ConfigError] = []
    seed: int | None = None
    for varied, words in wanted.combinations():
        job, composed = _job(sweep, wanted, varied, words, seed)
        sweep.jobs.append(job)
        if isinstance(composed, ConfigError):
            refused.append(composed)
            continue
        found[job.name] = composed
        seed = composed.specs()[-1].seed if seed is None else seed
    return found, refused


def _slots(wanted: SweepRequest, specs: Sequence[RunSpec]) -> list[Slot]:
    """The slots of a sweep's jobs.

    Raises:
        ConfigError: jobs that take every GPU are to run side by side.
    """
    several = [spec for spec in specs if has_several(spec.hardware) and spec.launch.device == "cuda"]
    if several and (wanted.settings.jobs or 1) > 1:
        what = f"hardware.type={several[0].hardware.type} gives each job every GPU"
        raise ConfigError(Problem(f"sweep.jobs={wanted.settings.jobs}", what, "sweep.jobs=1, or hardware=gpu"))
    return side_by_side.slots_for(specs, wanted.settings.jobs)


def _grid(sweep: Sweep, slots: Sequence[Slot], options: argparse.Namespace) -> int:
    """Run the open jobs of a sweep over every combination, and print its table."""
    from ftcli.sweeps.job_queues import Grid

    stopped = side_by_side.run_all(Grid(sweep), _started(sweep, slots, options))
    return _end(sweep, options, stopped)


def _started(sweep: Sweep, slots: Sequence[Slot], options: argparse.Namespace) -> side_by_side.Jobs:
    """How the jobs of a sweep are started."""
    flags = _flags(options)

    def command(job: SweepJob) -> list[str]:
        folder = sweep.run_dir(job)
        if rundir.is_run(folder) or rundir.is_pipeline(folder):
            _wait_for(folder)
            return ["train", "--resume", str(folder), *flags]
        return ["train", *job.words, *flags]

    def log(job: SweepJob) -> Path:
        return sweep.folder / f"{job.name}.txt"

    return side_by_side.Jobs(
        command=command, slots=slots, log=log if len(slots) > 1 else None, quiet=options.json, say=output.note
    )


def _wait_for(folder: Path) -> None:
    """Wait while a job that a killed sweep left behind saves and ends."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while rundir.in_use(folder) and time.monotonic() < until:
        time.sleep(0.2)


def _end(sweep: Sweep, options: argparse.Namespace, stopped: str | None) -> int:
    """Write results.json and print the table; the exit code of the sweep."""
    from ftcli.cli.render.run_table import show_sweep, sweep_data

    table = run_table.of_sweep(sweep, sweep.measure)
    rundir.write_json(sweep.folder / RESULTS, sweep_data(sweep, table))
    show_sweep(sweep, table, as_json=options.json)
    ends = [job.end for job in sweep.jobs]
    count = f"{ends.count('done')} of {len(ends)} jobs done"
    pruned, failed = ends.count("pruned"), ends.count("failed")
    output.note(count + (f", {pruned} pruned" if pruned else "") + (f", {failed} failed" if failed else ""))
    if stopped is not None:
        words = ["ftcli", "sweep", "--resume", str(sweep.folder), *_flags(options)]
        output.note(f"stopped by {stopped}; resume with: {' '.join(map(shell_word, words))}")
        return EXIT_INTERRUPTED
    if sweep.kind == "search" and "done" in ends:
        return EXIT_DONE
    return next((job.code for job in sweep.jobs if job.end == "failed" and job.code), EXIT_DONE)


def _first_point(wanted: SweepRequest) -> Mapping[str, str]:
    from ftcli.sweeps.search_space import samples

    return next(iter(samples(wanted.space)))


def _search(sweep: Sweep, wanted: SweepRequest, first: RunSpec, options: argparse.Namespace) -> int:
    """Run the jobs of a search, and print its table; the lock of its folder is held."""
    from ftcli.sweeps.job_queues import Search
    from ftcli.sweeps.optuna_study import Study

    def make(values: Mapping[str, str]) -> SweepJob:
        return _drawn(sweep, wanted, values, first)[0]

    study = Study(sweep.folder / STUDY, wanted.settings, wanted.space)
    slots = _slots(wanted, [first])
    stopped = side_by_side.run_all(Search(sweep, study, wanted.settings, make), _started(sweep, slots, options))
    return _end(sweep, options, stopped)


def _drawn(
    sweep: Sweep, wanted: SweepRequest, values: Mapping[str, str], first: RunSpec
) -> tuple[SweepJob, jobs.Job | ConfigError]:
    """The job of a search with these values, and what it composes to, or why it was refused, which is told."""
    job, composed = _job(sweep, wanted, values, wanted.words(values), first.seed)
    if isinstance(composed, ConfigError):
        output.problems(composed, as_json=False)
    return job, composed


def _search_together(sweep: Sweep, wanted: SweepRequest, first: RunSpec, options: argparse.Namespace) -> int:
    """Draw all jobs of a search that learns nothing from them, and give them to a scheduler as one array."""
    asked, composed = _draw_all(sweep, wanted, first, sweep.folder / STUDY)
    sweep.write()
    return array.submit(sweep, asked, composed, _flags(options))


def _draw_all(sweep: Sweep, wanted: SweepRequest, first: RunSpec, file: Path) -> tuple[Asked, dict[str, jobs.Job]]:
    """All jobs of a search that learns nothing from them, and what a scheduler is asked for; they are in the sweep.

    Args:
        file: the journal of the study.

    Raises:
        ConfigError: none can be composed, or they differ in what they ask for.
    """
    from ftcli.sweeps.optuna_study import Study

    study = Study(file, wanted.settings, wanted.space)
    found: dict[str, jobs.Job] = {}
    for _ in range(wanted.settings.trials):
        _, values = study.ask()
        job, composed = _drawn(sweep, wanted, values, first)
        sweep.jobs.append(job)
        if not isinstance(composed, ConfigError):
            found[job.name] = composed
    asked = array.of(found)
    if asked is None:
        raise ConfigError(Problem("hardware=slurm", "none of the jobs is one that a scheduler takes", "see above"))
    return asked, found


def _resume(options: argparse.Namespace) -> int:
    """Go on with a sweep: its open jobs, and of a search those that it has not asked for yet.

    Raises:
        ConfigError: it is no sweep, or cannot go on from here.
    """
    folder, where = Path(options.resume), f"--resume {options.resume}"
    if not is_sweep(folder):
        fix = f"ftcli train --resume {shell_word(folder)}" if rundir.is_run(folder) else "name the folder of a sweep"
        raise ConfigError(Problem(where, f"{folder} is not a sweep", fix))
    with ExitStack() as held:
        sweep = read_sweep(folder)
        if options.dry_run:
            rundir.require_free(folder)
        else:
            held.enter_context(rundir.exclusive(folder))
        sweep = read_sweep(folder)  # another command may have changed it before the lock
        _require_place(sweep, where)
        more = arguments.overrides(options)
        if odd := [word for word in more if word.partition("=")[0] not in ("sweep.trials", "sweep.jobs")]:
            what = "cannot change while a sweep goes on; only sweep.trials and sweep.jobs can"
            raise ConfigError(*(Problem(word, what, "start a new sweep") for word in odd))
        names = {word.partition("=")[0] for word in more}
        sweep.words = [*(word for word in sweep.words if word.partition("=")[0] not in names), *more]
        wanted = sweep_request.requested(sweep.words, _request(options), search=sweep.kind == "search")
        if wanted.recipe != sweep.recipe:
            raise ConfigError(Problem(where, "the recipe has changed since", "put it back, or start a new sweep"))
        wanted = replace(wanted, folder=folder, by_recipe=True)
        if array.is_one(sweep):
            if more:
                what = "changes nothing of a sweep whose jobs are a Slurm array"
                raise ConfigError(Problem(" ".join(more), what, "start a new sweep"))
            array.look_at(sweep, wanted, _flags(options))
            return _end(sweep, options, None)
        left = _open_specs(sweep, wanted)
        if options.dry_run:
            from ftcli.cli.render.run_table import show_sweep

            return show_sweep(sweep, run_table.of_sweep(sweep, sweep.measure), as_json=options.json)
        if sweep.kind == "search":
            return _search(sweep, wanted, searching.checked(wanted), options)
        return _grid(sweep, _slots(wanted, left), options)


def _require_place(sweep: Sweep, where: str) -> None:
    """Check that relative paths mean what they meant."""
    if os.path.realpath(sweep.place) != os.path.realpath(os.getcwd()):
        what = f"was started in {sweep.place}, to which its paths are relative"
        raise ConfigError(Problem(where, what, f"cd {shell_word(sweep.place)}"))


def _open_specs(sweep: Sweep, wanted: SweepRequest) -> list[RunSpec]:
    """What the jobs compose to that are still to begin, held to what a stranger's file may set.

    Raises:
        ConfigError: one cannot be composed, or needs a flag that is not given.
    """
    found, flags = list[RunSpec](), set[str]()
    for job in sweep.jobs:
        if job.end is not None or rundir.is_run(sweep.run_dir(job)) or rundir.is_pipeline(sweep.run_dir(job)):
            continue
        composed = jobs.resolve(_with(wanted, job.words))
        found += composed.specs()
        flags |= composed.flags()
    if problems := sweep_request.ungranted(flags, wanted.request.grants, str(sweep.folder)):
        raise ConfigError(*problems)
    return found


def _dry_run(sweep: Sweep, options: argparse.Namespace) -> int:
    """Plan each job of a sweep over every combination; the exit code of the first that fails."""
    codes = []
    more = [*_flags(options), "--dry-run", *(["--json"] if options.json else [])]
    for number, job in enumerate(sweep.jobs, 1):
        output.note(f"job {number} of {len(sweep.jobs)}: {job.name}")
        command = [sys.executable, "-m", "ftcli", "train", *job.words, *more]
        codes.append(_run(command) if job.words else EXIT_CONFIG)
        if codes[-1] == EXIT_INTERRUPTED:
            break
    output.notes(
        f"{codes.count(0)} of {len(sweep.jobs)} jobs done"
        + "".join(f"\n  job {i + 1}: exit {c}" for i, c in enumerate(codes) if c)
    )
    return next((code for code in codes if code), EXIT_DONE)


def _run(command: Sequence[str]) -> int:
    """Run a command to its end, also after a signal. Returns its exit code."""
    # In a session of its own, since a second signal would kill it: from the terminal, and from here.
    process = subprocess.Popen(command, start_new_session=True)
    while True:
        try:
            return ended(process)
        except Stopped as stopped:
            send(process.pid, stopped.number)
