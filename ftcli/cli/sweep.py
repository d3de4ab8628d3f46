"""`ftcli train -m`: one job per combination of comma-separated values."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

from ftcli.cli import arguments, jobs, output
from ftcli.cli.jobs.run import RunJob
from ftcli.cli.jobs.submission import submit
from ftcli.config.credentials import masked
from ftcli.config.overrides import expand, parse
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE, EXIT_INTERRUPTED
from ftcli.launch.local import ended
from ftcli.launch.profile import submits
from ftcli.runs.stop_signals import Stopped, send


def sweep(options: argparse.Namespace) -> int:
    """Run each job in its own process, so that a failing job does not end the others."""
    combinations, flags = expand(arguments.overrides(options)), []
    for folder in options.config_dir:
        flags += ["--config-dir", str(folder)]
    flags += [flag for flag in arguments.GRANTS if getattr(options, flag.strip("-").replace("-", "_"))]
    flags += [flag for flag, given in (("--dry-run", options.dry_run), ("--json", options.json)) if given]
    commands = [_words(job, number) for number, job in enumerate(combinations)]
    if not options.dry_run and (array := _array(options, commands)):
        return _submit_together(array, [["train", *words, *flags] for words in commands])
    codes = []
    for number, words in enumerate(commands):
        output.note(f"job {number + 1} of {len(commands)}: {masked(' '.join(words))}")
        codes.append(_run([sys.executable, "-m", "ftcli", "train", *words, *flags]))
        if codes[-1] == EXIT_INTERRUPTED:
            break
    output.note(
        f"{codes.count(0)} of {len(commands)} jobs done"
        + "".join(f"\n  job {i + 1}: exit {c}" for i, c in enumerate(codes) if c)
    )
    return next((code for code in codes if code), EXIT_DONE)


def _run(command: Sequence[str]) -> int:
    """Run a job to its end, also after a signal: it stops by itself, with a checkpoint. Returns its exit code."""
    # In a session of its own, since a second signal would kill it: from the terminal, and from here.
    process = subprocess.Popen(command, start_new_session=True)
    while True:
        try:
            return ended(process)
        except Stopped as stopped:
            send(process.pid, stopped.number)


def _words(job: Sequence[str], number: int) -> list[str]:
    """The overrides of a job, in a run directory of its own."""
    return [f"run.dir={parse(word).value}/{number}" if word.startswith("run.dir=") else word for word in job]


def _array(options: argparse.Namespace, commands: Sequence[Sequence[str]]) -> list[RunJob]:
    """The jobs of a sweep that goes to a scheduler; [] where each runs here, and reports its own problems.

    Raises:
        ConfigError: the problems of all jobs that would be submitted.
    """
    found: list[RunJob] = []
    problems: list[Problem] = []
    for words in commands:
        try:
            job = jobs.resolve(replace(arguments.request(options, tell=False), overrides=tuple(words)))
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        if not isinstance(job, RunJob) or not submits(job.spec.hardware, os.environ):
            return []
        found.append(job)
    if found and problems:
        raise ConfigError(*problems)
    return found


def _submit_together(array: Sequence[RunJob], argv: Sequence[Sequence[str]]) -> int:
    """Give the jobs to a scheduler as one job array; each has the command of its own in `argv`.

    Raises:
        ConfigError: they differ in their hardware, or a run directory is not empty.
    """
    first = array[0].spec
    if any(job.spec.hardware != first.hardware for job in array):
        what = "the jobs of an array have the same hardware, and these differ in it"
        raise ConfigError(Problem("hardware", what, "start a sweep for each"))
    return submit(first, lambda: [job.prepared(words) for job, words in zip(array, argv, strict=True)])
