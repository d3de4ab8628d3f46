"""Runs that are given to a scheduler: one as a job, several as a job array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ftcli.cli import output
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.launch import slurm
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec


def submit(spec: RunSpec, directories: Callable[[], Sequence[Path]]) -> int:
    """`submitted`, for a command that ends with it."""
    submitted(spec, directories)
    return EXIT_DONE


def submitted(spec: RunSpec, directories: Callable[[], Sequence[Path]]) -> str:
    """Give one run, or several that have the same hardware, to a scheduler; the number of the job or the array.

    Args:
        spec: of the first.
        directories: called where there is a scheduler; creates the run directories, or names them.

    Raises:
        ConfigError: there is no scheduler here, or it refuses the job.
    """
    slurm.require_sbatch()
    runs = directories()
    first, last = runs[0], runs[-1]
    file = first / rundir.JOB if len(runs) == 1 else first.parent / f"{first.name}-to-{last.name}.sbatch"
    with rundir.exclusive(first):
        script = slurm.written(spec, runs, file)
    number = slurm.submit(script)
    output.note(f"job {number} from {file}; it writes to {first if len(runs) == 1 else first.parent}")
    return number
