"""Runs that are given to a scheduler: one, or a pipeline, as a job, several as a job array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ftcli.cli import output
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.launch import slurm
from ftcli.launch.slurm import Words
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec


def submit(spec: RunSpec, words: Words, directory: Callable[[], Path]) -> int:
    """`submitted` of one run or pipeline, for a command that ends with it."""
    submitted(spec, words, lambda: [directory()])
    return EXIT_DONE


def submitted(spec: RunSpec, words: Words, directories: Callable[[], Sequence[Path]]) -> str:
    """Give one run, or several that have the same hardware, to a scheduler; the number of the job or the array.

    Args:
        spec: of the first.
        words: what the job types.
        directories: called where there is a scheduler; creates the run directories, or names them.

    Raises:
        ConfigError: there is no scheduler here, or it refuses the job.
    """
    slurm.require_sbatch()
    runs = directories()
    first, last = runs[0], runs[-1]
    file = first / rundir.JOB if len(runs) == 1 else first.parent / f"{first.name}-to-{last.name}.sbatch"
    with rundir.exclusive(first):
        script = slurm.written(spec, runs, words, file)
    number = slurm.submit(script)
    output.note(f"job {number} from {file}; it writes to {first if len(runs) == 1 else first.parent}")
    return number


def show_script(spec: RunSpec, words: Words, directory: Path) -> None:
    """Print what would be submitted for one run or pipeline."""
    output.text("\nwould be submitted with sbatch:\n")
    output.text(slurm.script(spec, [directory.resolve()], words), end="")
