"""Jobs that are given to a scheduler: a run or a pipeline as a job, several of them as a job array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ftcli.cli import output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.launch import slurm
from ftcli.launch.slurm import Words
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a scheduler is asked for, and what the job types."""

    spec: RunSpec
    """Its resources; of a pipeline those of the stage that needs most."""
    words: Words

    def text(self, runs: Sequence[Path]) -> str:
        """What sbatch is given for these directories."""
        return slurm.script(self.spec, [run.resolve() for run in runs], self.words)


def together(several: Sequence[Asked]) -> Asked:
    """What a scheduler is asked for one array of these jobs.

    Raises:
        ConfigError: they differ in what they ask for.
    """
    first = several[0]
    if any((each.spec.hardware, each.spec.launch) != (first.spec.hardware, first.spec.launch) for each in several):
        what = "the jobs of an array have the same hardware, and these differ in it"
        raise ConfigError(Problem("hardware", what, "start a sweep for each"))
    flags = [tuple(each.words.flags) for each in several]
    if len(set(flags)) > 1:
        what = f"the jobs of an array have the same flags, and these need {' and '.join(sorted(map(' '.join, flags)))}"
        raise ConfigError(Problem("the sweep", what, "start a sweep for each"))
    return replace(first, words=Words(flags=first.words.flags))


def submit(asked: Asked, directory: Callable[[], Path]) -> int:
    """`submitted` of one run or pipeline, for a command that ends with it."""
    submitted(asked, lambda: [directory()])
    return EXIT_DONE


def submitted(asked: Asked, directories: Callable[[], Sequence[Path]]) -> str:
    """Give one job, or several that ask for the same, to a scheduler; the number of the job or the array.

    Args:
        directories: called where there is a scheduler; creates the directories, or names them.

    Raises:
        ConfigError: there is no scheduler here, or it refuses the job.
    """
    slurm.require_sbatch()
    runs = directories()
    first, last = runs[0], runs[-1]
    file = first / rundir.JOB if len(runs) == 1 else first.parent / f"{first.name}-to-{last.name}.sbatch"
    with rundir.exclusive(first):
        rundir.write_atomically(file, asked.text(runs))
    job = slurm.submit(file, runs)
    output.note(f"job {job.number} from {file}; it writes to {first if len(runs) == 1 else first.parent}")
    return job.number


def show_script(asked: Asked, *directories: Path) -> None:
    """Print what would be submitted."""
    output.text("\nwould be submitted with sbatch:\n")
    output.text(asked.text(directories), end="")
