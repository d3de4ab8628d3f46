"""A run or a pipeline, or several runs as an array, as a Slurm job: the text that sbatch is given, giving it, and
whether Slurm still has it.

The job resumes the directory of the run or the pipeline, so that the same text starts it, and starts it again after a
requeue. Slurm asks for a stop some time before the limit (`--signal`), and asks only the script (`B:`), which passes
the signal to ftcli alone: a launcher in between would give its processes half a minute, and a large checkpoint takes
longer.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_INTERRUPTED, EXIT_RANK_LOST
from ftcli.core.plugins import plugin_loading
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import RunSpec

OPTIONS = (
    "qos", "constraint", "reservation", "mem", "mem-per-gpu", "mem-per-cpu", "cpus-per-task", "exclude", "nodelist",
    "exclusive", "gres", "licenses", "nice", "begin", "dependency", "mail-type", "mail-user", "comment", "clusters",
)  # fmt: skip
"""Further options of sbatch that `hardware.sbatch` takes: which resources, and when. None runs code or names a file."""
VALUE = re.compile(r"[\w./:@%+,=*&|\[\]()-]+")
"""A value that stands on an `#SBATCH` line as it is."""
_BEFORE = 128 + int(signal.SIGTERM)
"""The exit code of what SIGTERM ended before it could take the signal for a request."""
WAIT = re.compile(r"(\d+-)?\d+(:\d\d){0,2}")
"""A time as Slurm takes it: minutes, hours:minutes:seconds, days-hours."""
_SBATCH_SAYS = re.compile(r"^sbatch: (?:error: |fatal: )?")
_NUMBER = re.compile(r"\d{1,18}(_\d{1,9})?", re.ASCII)
_CLUSTER = re.compile(r"[\w.-]{0,64}", re.ASCII)
_OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a job types beside `train --resume RUN`: it needs the flags of the command that submits it."""

    flags: Sequence[str]
    overrides: Sequence[str] = ()
    """What a resume changes; a requeued job says it again, to the same effect."""


def words_of(spec: RunSpec, overrides: Sequence[str] = ()) -> Words:
    """The words for a run."""
    return Words(flags=[*spec.grants, *plugin_loading.words()], overrides=overrides)


def script(spec: RunSpec, runs: Sequence[Path], words: Words) -> str:
    """The text for sbatch.

    Args:
        spec: of the run, or of the first of several that differ in nothing of the hardware.
        runs: the run directories; several become a job array, an element each.
    """
    return "\n".join([*_options(spec, runs), "", *_which(runs), *_work(spec, words), *_end(spec.hardware), ""])


def _options(spec: RunSpec, runs: Sequence[Path]) -> list[str]:
    wanted, launch = spec.hardware, spec.launch
    several = len(runs) > 1
    output = runs[0].parent / "slurm-%A_%a.txt" if several else runs[0] / "slurm-%j.txt"
    options: dict[str, Any] = {
        "job-name": spec.run.name,
        "array": f"0-{len(runs) - 1}" if several else None,
        "account": wanted.account,
        "partition": wanted.partition,
        "time": wanted.time_limit,
        "nodes": launch.num_nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": launch.processes_per_node if launch.device == "cuda" else None,
        **(wanted.sbatch or {}),
        "signal": f"B:TERM@{wanted.stop_seconds}",
        "requeue": True,
        "open-mode": "append",
        "output": output,
    }
    lines = ["#!/bin/bash", "# Written by ftcli train hardware=slurm; sbatch takes it again as it is."]
    for name, value in options.items():
        if value is True:
            lines.append(f"#SBATCH --{name}")
        elif value not in (None, False):
            lines.append(f"#SBATCH --{name}={value}")
    return lines


_STATE = (
    "# whether Slurm itself ends the job, and has told every process of it; and whether that is before its limit",
    "# and for no other job: then somebody cancelled it",
    """state() { squeue --noheader --states=all --jobs="$job" --format='%T %r'; }""",
    'ends() { case "$(state)" in COMPLETING*) ;; *) return 1 ;; esac; }',
    "cancelled() {",
    '  case "$(state)" in',
    '    "COMPLETING TimeLimit") return 1 ;;',
    """    COMPLETING*) ! scontrol show job "$job" | grep -q 'PreemptTime=[0-9]' ;;""",
    "    *) return 1 ;;",
    "  esac",
    "}",
)


def _which(runs: Sequence[Path]) -> list[str]:
    """The directory of the run and the number of the job, and what becomes of the job."""
    own = [f"run={shlex.quote(str(runs[0]))}", "job=$SLURM_JOB_ID"]
    if len(runs) > 1:
        listed = (f"  {shlex.quote(str(run))}" for run in runs)
        own = ["runs=(", *listed, ")", 'run="${runs[$SLURM_ARRAY_TASK_ID]}"']
        own += ["job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"]
    return [*own, *_STATE]


def _work(spec: RunSpec, words: Words) -> list[str]:
    """Start ftcli on every node, and pass the request to stop to the one on this node, which tells all others."""
    resume = f"{_ftcli(spec.hardware)} {shlex.join(['train', *words.flags, '--resume'])}"
    changes = "".join(f" {shlex.quote(text)}" for text in words.overrides)
    lines = []
    if spec.launch.num_nodes > 1:
        others = spec.launch.num_nodes - 1
        inner = f'{resume} "$1"{changes} hardware.node_rank=$((SLURM_PROCID + 1))'
        where = f"--nodes={others} --ntasks={others} --relative=1"
        lines += ["# the other nodes", f'srun {where} bash -c {shlex.quote(inner)} node "$run" &']
    return [
        *lines,
        "pid= stop=",
        "# a second signal would stop ftcli at once, and lose what no checkpoint has",
        "trap 'stop=1; ends || kill -TERM $pid 2>/dev/null' TERM",
        f'{resume} "$run"{changes} &',
        "pid=$!",
        '[ -n "$stop" ] && kill -TERM "$pid"',
        'wait "$pid"; code=$?',
        "# a signal ends `wait` and not ftcli, which first finishes its step and saves",
        'while kill -0 "$pid" 2>/dev/null; do wait "$pid"; code=$?; done',
        '[ "$code" -gt 128 ] && { wait "$pid"; code=$?; }',
    ]


def _ftcli(wanted: HardwareSettings) -> str:
    """The command of this environment, or that of the container."""
    if wanted.container is None:
        return f"{shlex.quote(sys.executable)} -m ftcli"
    return f"apptainer exec --nv {shlex.quote(wanted.container)} ftcli"


def _end(wanted: HardwareSettings) -> list[str]:
    return [
        f"# {EXIT_INTERRUPTED}: stopped, {EXIT_RANK_LOST}: a process was lost, {_BEFORE}: stopped before it had begun;"
        " each goes on from the newest checkpoint",
        'case "$code" in',
        f"  {EXIT_INTERRUPTED}|{EXIT_RANK_LOST}|{_BEFORE})",
        f'    [ "${{SLURM_RESTART_COUNT:-0}}" -lt {wanted.max_requeues} ] && ! cancelled && scontrol requeue "$job" ;;',
        "esac",
        'exit "$code"',
    ]


def require_sbatch() -> None:
    """Check that jobs can be submitted from here.

    Raises:
        ConfigError: there is no sbatch.
    """
    if shutil.which("sbatch") is None:
        what = "there is no sbatch on this machine"
        fix = "start it on a login node of the cluster; --dry-run prints what would be submitted"
        raise ConfigError(Problem("hardware=slurm", what, fix))


# --- the queue --------------------------------------------------------------------------------------------------------


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
