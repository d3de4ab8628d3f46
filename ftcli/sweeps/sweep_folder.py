"""The folder of a sweep: a run directory for each job, and what tells how far the sweep is.

    SWEEP/  sweep.json  study.jsonl  NAME/  NAME.txt  results.json

`sweep.json` holds what was requested and each job with its end; it is rewritten whenever a job begins or ends, so a
sweep that was killed is resumed from it. Such a folder may come from anyone: what is read from it is held to its form,
and its overrides to what a stranger's file may set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_CODES, EXIT_DONE, EXIT_INTERRUPTED, EXIT_NAMES
from ftcli.core.untrusted import foreign_files
from ftcli.runs import run_end, rundir

FILE = "sweep.json"
RESULTS = "results.json"
STUDY = "study.jsonl"
"""The journal of the search, as Optuna writes it."""
SCHEMA = 1

Kind = Literal["grid", "search"]
End = Literal["done", "pruned", "failed"]
_PLAIN = ("words", "place", "measure", "recipe", "array")
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_NAME = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """One job, and how it ended."""

    name: str
    """The name of its run directory."""
    varied: Mapping[str, str]
    """Each setting that the sweep varies → its value here, as typed."""
    words: tuple[str, ...]
    """Its overrides; () where they were refused."""
    end: End | None = None
    """None while it is to begin, or to be resumed."""
    code: int | None = None
    """The exit code with which it ended."""
    cause: str = ""
    """Why it failed."""


@dataclass(kw_only=True)
class Sweep:
    """What was requested, and the jobs so far."""

    folder: Path
    kind: Kind
    words: list[str]
    """The overrides as they were typed."""
    place: str
    """The directory in which they were, for relative paths."""
    measure: str = "eval_loss"
    """By what its jobs are ranked (`sweep.measure`)."""
    recipe: str | None = None
    """The digest of the recipe, which a resume finds as it was."""
    array: str | None = None
    """The number of the Slurm array that its jobs were given to; None where they run with the sweep."""
    jobs: list[SweepJob] = field(default_factory=list)

    def run_dir(self, job: SweepJob) -> Path:
        """The run directory of a job."""
        return self.folder / job.name

    def put(self, job: SweepJob) -> None:
        """Add a job, or replace what is known of it, and write that down."""
        names = [each.name for each in self.jobs]
        if job.name in names:
            self.jobs[names.index(job.name)] = job
        else:
            self.jobs.append(job)
        self.write()

    def write(self) -> None:
        """Write sweep.json."""
        own = {name: getattr(self, name) for name in _PLAIN}
        jobs = [asdict(job) for job in self.jobs]
        rundir.write_json(self.folder / FILE, {"schema": SCHEMA, "kind": self.kind, **own, "jobs": jobs})


def is_sweep(folder: Path) -> bool:
    """Whether a sweep was begun in a folder."""
    return (folder / FILE).is_file()


def read_sweep(folder: Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        ConfigError: it is not as ftcli writes it, or of a later version.
    """
    rundir.require_own_files(folder)
    file = folder / FILE
    try:
        found = foreign_files.read_json(file)
        if type(found["schema"]) is not int or found["schema"] > SCHEMA:
            what = f"has schema {found['schema']!r}, of a later version of ftcli; this one reads up to {SCHEMA}"
            raise ConfigError(Problem(str(file), what, "use the version that wrote it"))
        sweep = Sweep(
            folder=folder, kind=found["kind"], words=_words(found["words"]), place=found["place"],
            measure=found["measure"], recipe=found["recipe"], array=found.get("array"),
            jobs=[_job(each) for each in _as_list(found["jobs"])],
        )  # fmt: skip
        whole = sweep.kind in get_args(Kind) and isinstance(sweep.place, str) and isinstance(sweep.measure, str)
        whole = (
            whole and isinstance(sweep.recipe or "", str) and len({job.name for job in sweep.jobs}) == len(sweep.jobs)
        )
        whole = whole and (sweep.array is None or bool(_NUMBER.fullmatch(sweep.array)))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ConfigError(Problem(str(file), "is damaged, or not as ftcli writes it", "start the sweep again"))
    return sweep


def _words(found: Any) -> list[str]:
    """Overrides, and no flags: those count on the command line alone."""
    return [*map(_override, _as_list(found))]


def _override(word: Any) -> str:
    if not isinstance(word, str) or word.startswith("-"):
        raise ValueError(word)
    return word


def _as_list(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise ValueError(found)
    return found


def _job(found: Any) -> SweepJob:
    """One job of sweep.json.

    Raises:
        ValueError: it has not the form of one.
    """
    job = SweepJob(**{**found, "words": tuple(map(_override, _as_list(found["words"])))})
    texts = [job.name, job.cause, *job.varied.keys(), *job.varied.values()]
    if not all(isinstance(text, str) for text in texts) or not _NAME.fullmatch(job.name):
        raise ValueError(job.name)
    if job.end not in (None, *get_args(End)) or not isinstance(job.code, int | None):
        raise ValueError(job.end)
    return job


def begun_stages(folder: Path) -> list[Path]:
    """The stages of a pipeline that have begun, the last first; none of a run."""
    if not rundir.is_pipeline(folder):
        return []
    try:
        return [folder / name for name in reversed(rundir.read_pipeline(folder)["stages"]) if (folder / name).is_dir()]
    except ConfigError:
        return []


def ended(sweep: Sweep, job: SweepJob, code: int, *, pruned: bool = False) -> SweepJob:
    """A job whose command ended with a code, with how; still open where it was interrupted and can be resumed."""
    if code == EXIT_DONE:
        return replace(job, end="done", code=code)
    if pruned and code == EXIT_INTERRUPTED:
        return replace(job, end="pruned", code=code)
    if code == EXIT_INTERRUPTED:
        return job
    for place in (sweep.run_dir(job), *begun_stages(sweep.run_dir(job))):
        end = run_end.read(place)
        if end is not None and end.code == code:
            of_stage = "" if place == sweep.run_dir(job) else f"stage {place.name}: "
            return replace(job, end="failed", code=code, cause=f"{of_stage}{end.text()}")
    cause = f"ended by signal {-code}" if code < 0 else EXIT_CODES.get(code, "")
    return replace(job, end="failed", code=code, cause=f"exit code {code}, {EXIT_NAMES.get(code, 'killed')}: {cause}")
