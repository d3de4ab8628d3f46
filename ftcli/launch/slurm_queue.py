"""The queue of Slurm: giving it a job, which job a folder was given to, and whether that waits or is at work still."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir

_SBATCH_SAYS = re.compile(r"^sbatch: (?:error: |fatal: )?")
_NUMBER = re.compile(r"\d{1,18}(_\d{1,9})?", re.ASCII)
_CLUSTER = re.compile(r"[\w.-]{0,64}", re.ASCII)
_OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


@dataclass(frozen=True)
class QueuedJob:
    """A job, an array, or a task of one, by its number."""

    number: str
    cluster: str = ""
    """The cluster among several to which it was given."""

    def command(self, name: str, *words: str) -> list[str]:
        """A command of Slurm about it."""
        return [name, *([f"--clusters={self.cluster}"] if self.cluster else []), *words]

    def states(self) -> list[str]:
        """The states of its tasks that wait or are at work; none where it is over, or nobody can be asked."""
        asked = self.command("squeue", "--noheader", "--states=all", "--format=%T", "--jobs", self.number)
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
        except OSError:
            return []
        # A number that Slurm has forgotten is an error to squeue.
        return [] if done.returncode else [state for state in done.stdout.split() if state not in _OVER]


def submit(file: Path, runs: Sequence[Path]) -> QueuedJob:
    """Give a job to Slurm, and note its number in the directories that it works on.

    Raises:
        ConfigError: Slurm refuses it, in its own words.
    """
    done = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [_SBATCH_SAYS.sub("", line).strip() for line in done.stderr.splitlines()]
        said = "; ".join(filter(None, lines)) or "no reason given"
        raise ConfigError(Problem(str(file), f"sbatch refuses it: {said}", "change it, then: sbatch FILE"))
    number, _, cluster = done.stdout.strip().partition(";")
    for task, run in enumerate(runs):
        own = number if len(runs) == 1 else f"{number}_{task}"
        rundir.write_json(run / rundir.SUBMITTED, {"job": own, "cluster": cluster})
    return QueuedJob(number, cluster)


def job_of(folder: Path) -> QueuedJob | None:
    """The job that a run or a pipeline was last given to, or the pipeline of which the run is a stage.

    Raises:
        ConfigError: the note of it is not as ftcli writes it.
    """
    for place in (folder, *([folder.resolve().parent] if rundir.is_pipeline(folder.resolve().parent) else [])):
        file = place / rundir.SUBMITTED
        if not file.is_file():
            continue
        try:
            found = foreign_files.read_json(file)
            job = QueuedJob(found["job"], found["cluster"])
            if _NUMBER.fullmatch(job.number) and _CLUSTER.fullmatch(job.cluster):
                return job
        except (OSError, ValueError, LookupError, TypeError):
            pass
        raise ConfigError(Problem(str(file), "is damaged, or not as ftcli writes it", f"rm {shell_word(file)}"))
    return None


def require_not_queued(folder: Path, environment: Mapping[str, str]) -> None:
    """Check that no job will resume a run or a pipeline, or is at work on it, unless this is that job.

    Raises:
        ConfigError: one does, with its number and the command that cancels it.
    """
    job = job_of(folder)
    if job is None or job.number == _own(environment) or not (states := job.states()):
        return
    how = "waits to start" if states[0] == "PENDING" else "is at work"
    what = f"its Slurm job {job.number} {how} ({states[0]}), and resumes it by itself"
    cancel = " ".join(map(shell_word, job.command("scancel", job.number)))
    fix = f"wait for it; or {cancel} ends it, and what it has trained is saved. Then resume"
    raise ConfigError(Problem(f"--resume {folder}", what, fix))


def _own(environment: Mapping[str, str]) -> str | None:
    """The number of the job that this process belongs to."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID")
