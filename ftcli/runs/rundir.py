"""The run directory: names of its files, atomic writes, and finding a run again.

    RUN/  spec.json  inputs.json  command.sh  environment.json  log.txt  metrics.jsonl  phases.json  checkpoints/
          model/  result.json  end.json

`result.json` is written last and atomically: a run that has one is finished.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ftcli.core.errors import DISK_ERRNOS, ConfigError, DiskError, FtcliError, Problem
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files

SPEC = "spec.json"
INPUTS = "inputs.json"
COMMAND = "command.sh"
ENVIRONMENT = "environment.json"
LAUNCHER = "launcher.yaml"
"""How accelerate starts the processes of a run, where there are several."""
JOB = "job.sbatch"
"""What Slurm was given, for a run that was submitted."""
SUBMITTED = "submitted.json"
"""The number of the job that it became."""
ATTENTION = "attention.json"
"""Which attention kernel a run took, where it measured several."""
LOG = "log.txt"
METRICS = "metrics.jsonl"
PHASES = "phases.json"
"""What the last worker of the run has done, and does (runs/worker_records.py)."""
LEDGER = "ledger.json"
DROPPED = "dropped.jsonl"
PLAN = "plan.json"
"""What the plan expected of the card of a run, for the report."""
SHOWN = "shown_rows.json"
"""The first rows as tokens with which of them are trained, for the report."""
ANSWERS = "answers.json"
"""The same few held-out questions answered before and after training, where the run measures that."""
CHECKPOINTS = "checkpoints"
INITIALISATION = "initialisation.tensors"
"""What an adapter starts from where that was computed from rows or quantised weights, so that a resume starts there."""
MODEL = "model"
TRACKERS = "trackers"
"""What trackers keep, each in a folder of its name."""
RESULT = "result.json"
LOCK = ".lock"
"""Held by the command that writes in the folder, from before its first byte to after its last."""
WORKER_LOCK = ".lock-worker"
"""Held by the worker, which lives for a moment longer than a command that was killed."""
PIPELINE = "pipeline.json"
"""Marks the directory of a pipeline, whose stages are run directories inside it."""
EXPORTS = "export"
"""Where `ftcli export` writes, a folder for each format."""
PUSHES = "pushes.json"
"""What of a run was sent to a hub, with the commit that it became (publishing/push_record.py)."""
REPORT = "report.html"
"""The page that `ftcli report` writes."""
END = "end.json"
"""How the last command on the run ended (runs/run_end.py)."""

SCHEMAS: Mapping[str, int] = MappingProxyType(
    {RESULT: 1, PIPELINE: 1, INPUTS: 1, METRICS: 1, LEDGER: 2, ENVIRONMENT: 2, SHOWN: 1, ANSWERS: 1, PLAN: 1, PUSHES: 1}
)
"""The schema of each file that this version writes, and the latest that it reads."""

ROOT = Path("runs")
_MOST_SHOWN = 20
_UNWRITTEN = re.compile(rf"\.({re.escape(SPEC)}|{re.escape(PIPELINE)})\.\d+")
"""What a command leaves that was killed while it wrote the first file of a run or a pipeline: nothing has begun."""
_PATIENCE_SECONDS = 3.0
"""How long to wait for a lock: a worker whose parent was killed ends itself, but not at once."""


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, even after a crash."""
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(staging, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    except BaseException:  # as where the disk is full
        staging.unlink(missing_ok=True)
        raise


def require_known_schema(file: Path, content: Mapping[str, Any]) -> None:
    """Check that this version reads what is in a file of SCHEMAS.

    Raises:
        ConfigError: a later version of ftcli wrote it, which may mean another thing by the same words.
    """
    latest, found = SCHEMAS[file.name], content.get("schema", 1)
    if type(found) is not int or found > latest:
        what = f"has schema {found}, of a later version of ftcli; this one reads up to {latest}"
        raise ConfigError(Problem(str(file), what, "use the version that wrote it, which environment.json names"))


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` for a JSON value."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def exclusive(run: Path) -> Iterator[None]:
    """Hold the lock of a run or a pipeline for a command that writes there.

    Raises:
        ConfigError: another command holds it, or a worker is still at work there.
    """
    new = not os.path.exists(run / LOCK)
    with _lock(run, LOCK):
        try:
            _require_free(run, WORKER_LOCK)
            yield
        except FtcliError:
            if new:  # what is refused leaves no trace; who waits for an unlinked lock makes it anew
                os.unlink(run / LOCK)
            raise


@contextmanager
def at_work(run: Path) -> Iterator[None]:
    """Hold the lock of a run's worker.

    Raises:
        ConfigError: another worker holds it.
    """
    with _lock(run, WORKER_LOCK):
        yield


@contextmanager
def created(run: Path) -> Iterator[Path]:
    """Make the folder of a new run or pipeline, and hold its lock; yields its absolute path.

    Raises:
        ConfigError: it is not empty, cannot be created, or another command is making it.
    """
    _require_empty(run)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in DISK_ERRNOS:
            raise DiskError.of(error) from None
        what = f"the directory cannot be created: {error.strerror}"
        raise ConfigError(Problem(f"run.dir={run}", what, "choose another run.dir")) from None
    with exclusive(run):
        _require_empty(run)  # another command may have been quicker
        for left in filter(_UNWRITTEN.fullmatch, os.listdir(run)):
            os.unlink(run / left)
        yield run.resolve()


def _require_empty(run: Path) -> None:
    there = os.listdir(run) if run.is_dir() else []
    if all(name == LOCK or _UNWRITTEN.fullmatch(name) for name in there):
        return
    resume = f"resume it with ftcli train --resume {shell_word(run)}, or choose another run.dir"
    fix = resume if is_run(run) or is_pipeline(run) else "choose another run.dir"
    raise ConfigError(Problem(f"run.dir={run}", "the directory is not empty", fix))


def require_own_files(folder: Path) -> None:
    """Check that all that is in the folder of a run or a pipeline lies in it, and is a file or a folder.

    ftcli appends to its logs and journals, truncates and removes them: behind a link that somebody else put there may
    be any file of the user's, and who opens a pipe waits for ever.

    Raises:
        ConfigError: a link leads out of it, or something is a pipe, a socket or a device.
    """
    if problems := [*islice(foreign_files.strays(folder), _MOST_SHOWN)]:
        raise ConfigError(*problems)


def require_free(run: Path) -> None:
    """Check that no process is using a run or a pipeline; changes nothing.

    Raises:
        ConfigError: one is.
    """
    for lock in (LOCK, WORKER_LOCK):
        _require_free(run, lock)


def in_use(run: Path) -> bool:
    """Whether a process is at work in a run or a pipeline; waits for nobody, changes nothing, and reads alone."""
    return any(map(_is_held, (run / LOCK, run / WORKER_LOCK)))


def _is_held(lock: Path) -> bool:
    import fcntl  # here, as filelock: only commands that look at a run need it

    try:
        file = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _require_free(run: Path, lock: str) -> None:
    if os.path.isfile(run / lock):
        with _lock(run, lock):
            pass


def _lock(run: Path, name: str) -> AbstractContextManager[Any]:
    """Acquire the lock; released when the returned context exits, and by the kernel when this process dies."""
    from filelock import FileLock, Timeout  # here, since only commands that start something need it

    # Only the kernel's lock: filelock's fallback for file systems without one would outlive a killed process.
    lock = FileLock(run / name, timeout=_PATIENCE_SECONDS, poll_interval=0.05, fallback_to_soft=False)
    try:
        return lock.acquire()
    except Timeout:
        fix = "wait for it, stop it, or start a new run"
        raise ConfigError(Problem(str(run), "the run is in use by another process", fix)) from None
    except OSError as error:
        what = f"cannot be written in: {error.strerror}"
        raise ConfigError(Problem(str(run), what, "make it writable, or copy it to a place of your own")) from None


def new_run_dir(name: str, now: datetime | None = None) -> Path:
    """A path runs/NAME/TIME that does not exist yet; nothing is created."""
    stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    path = ROOT / name / stamp
    number = 1
    while os.path.exists(path):
        number += 1
        path = ROOT / name / f"{stamp}-{number}"
    return path


def shown_name(run: Path) -> str:
    """What a run is called where several are shown: NAME/TIME as under runs/, or the last two parts of its path."""
    return "/".join(run.parts[-2:])


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory."""
    return os.path.isfile(path / SPEC)


def is_pipeline(path: Path) -> bool:
    """Whether `path` is the directory of a pipeline."""
    return os.path.isfile(path / PIPELINE)


def run_order(run: Path) -> tuple[int, str]:
    """Sort key by start time, the oldest run or pipeline first."""
    return (run / (SPEC if is_run(run) else PIPELINE)).stat().st_mtime_ns, run.name


def whole(run: Path) -> Path:
    """What to resume for a run: the pipeline that it is a stage of, else the run itself."""
    return run.parent if is_pipeline(run.parent) else run


def read_pipeline(path: Path) -> dict[str, Any]:
    """The content of pipeline.json.

    Raises:
        ConfigError: it is damaged; since it is written atomically, something edited it.
    """
    require_own_files(path)
    file = path / PIPELINE
    try:
        found = foreign_files.read_json(file)
        require_known_schema(file, found)
        damaged = not found["stages"] or any(map(_malformed, found["stages"].values()))
        damaged = damaged or not isinstance(found.get("options", {}), dict)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        damaged = True
    if damaged:
        raise ConfigError(Problem(str(file), "is damaged", "start a new pipeline, as the one was started"))
    return dict(found)


_STAGE_MAPPINGS = ("tree", "choices", "make", "rows", "edited")


def _malformed(stage: Any) -> bool:
    """Whether a stage's entry in pipeline.json has not the form that ftcli writes; the file may come from anyone."""
    if not all(isinstance(stage.get(name) or {}, dict) for name in _STAGE_MAPPINGS):
        return True
    if not all(isinstance(group, dict) for name, group in stage.get("tree", {}).items() if name != "seed"):
        return True
    if "tree" in stage and not isinstance(stage.get("choices"), dict):
        return True
    named = [*stage.get("choices", {}).values(), *stage.get("fed", ())]
    make = stage.get("make")
    if make is not None and not (isinstance(make.get("choice"), str) and isinstance(make.get("values"), dict)):
        return True
    return not all(isinstance(name, str) for name in named) or not isinstance(stage.get("ready") or "", str)


def find_run(name: str) -> Path | None:
    """The run directory that `name` refers to: a run, the newest of a name under runs/, or a pipeline's last stage."""
    found = _find(name)
    if found is None or is_run(found):
        return found
    *_, last = read_pipeline(found)["stages"].items()
    run = Path(last[1]["ready"]) if last[1].get("ready") else found / last[0]
    return run.resolve() if is_run(run) else None


def find_pipeline(name: str) -> Path | None:
    """The directory of the pipeline that `name` refers to; None for a run or an unknown name."""
    found = _find(name)
    return found if found is not None and is_pipeline(found) else None


def _find(name: str) -> Path | None:
    """The run or pipeline that a directory or a name under runs/ refers to."""
    if not name:
        return None
    path = Path(name)
    if is_run(path) or is_pipeline(path):
        return path.resolve()
    if path.name == MODEL and is_run(path.parent):
        return path.parent.resolve()
    folder = path if os.path.isdir(path) else ROOT / name
    entries = folder.iterdir() if os.path.isdir(folder) else ()
    runs = [entry for entry in entries if is_run(entry) or is_pipeline(entry)]
    return max(runs, key=run_order).resolve() if runs else None


def require_run(name: str, where: str) -> Path:
    """`find_run`, or an error that lists the existing runs.

    Raises:
        ConfigError: no such run.
    """
    found = find_run(name)
    if found is not None:
        return found
    known = sorted(entry.name for entry in ROOT.iterdir() if entry.is_dir()) if ROOT.is_dir() else []
    listing = f"runs here: {', '.join(known[-8:])}" if known else "no runs under runs/ yet: start one with ftcli train"
    raise ConfigError(Problem(where, f"{name} is not a run", listing))


@contextmanager
def stored(place: Path) -> Iterator[None]:
    """For who shows what a run's files hold, which anybody may have edited.

    Raises:
        ConfigError: something in them has not the form that ftcli writes.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"is damaged, or not as ftcli writes it: {type(error).__name__}: {error}"
        raise ConfigError(Problem(str(place), what, "start the run again")) from None


def read_result(run: Path) -> dict[str, Any] | None:
    """The content of result.json, or None where the run is not finished.

    Raises:
        ConfigError: it is not a JSON object; since it is written atomically, something edited it.
    """
    path = run / RESULT
    if not path.is_file():
        return None
    try:
        result = foreign_files.read_json(path)
    except ValueError:
        result = None
    if isinstance(result, dict):
        require_known_schema(path, result)
    else:
        raise ConfigError(Problem(str(path), "is damaged", f"measure the run again with ftcli eval {shell_word(run)}"))
    return result
