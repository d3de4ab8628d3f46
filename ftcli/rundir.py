"""The run directory: names of its files, atomic writes, and finding a run again.

    RUN/  spec.json  command.sh  environment.json  log.txt  metrics.jsonl  checkpoints/  model/  result.json

`result.json` is written last and atomically: where it stands, the run is finished.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from ftcli.errors import ConfigError, Problem

SPEC = "spec.json"
COMMAND = "command.sh"
ENVIRONMENT = "environment.json"
LOG = "log.txt"
METRICS = "metrics.jsonl"
LEDGER = "ledger.json"
CHECKPOINTS = "checkpoints"
MODEL = "model"
RESULT = "result.json"
LOCK = ".lock"
EXIT_CODE = ".exit_code"
"""The exit code of the worker that failed first, where a launcher returns 1 for every cause."""

ROOT = Path("runs")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader, or a crash, sees the old file or the new one and nothing between."""
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    with open(staging, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` for a JSON value."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def new_run_dir(name: str, now: datetime | None = None) -> Path:
    """A path runs/NAME/TIME that does not exist yet; nothing is created."""
    stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    path = ROOT / name / stamp
    number = 1
    while os.path.exists(path):
        number += 1
        path = ROOT / name / f"{stamp}-{number}"
    return path


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory."""
    return os.path.isfile(path / SPEC)


def run_order(run: Path) -> tuple[int, str]:
    """Sort key from the oldest run to the newest: when it was started."""
    return (run / SPEC).stat().st_mtime_ns, run.name


def find_run(name: str) -> Path | None:
    """The run directory that `name` means: a run directory, or the newest run of that name under runs/."""
    if not name:
        return None
    path = Path(name)
    if is_run(path):
        return path.resolve()
    if path.name == MODEL and is_run(path.parent):
        return path.parent.resolve()
    folder = path if os.path.isdir(path) else ROOT / name
    runs = [entry for entry in folder.iterdir() if is_run(entry)] if os.path.isdir(folder) else []
    return max(runs, key=run_order).resolve() if runs else None


def require_run(name: str, where: str) -> Path:
    """`find_run`, or an error that lists the runs there are.

    Raises:
        ConfigError: no such run.
    """
    found = find_run(name)
    if found is not None:
        return found
    known = sorted(entry.name for entry in ROOT.iterdir() if entry.is_dir()) if ROOT.is_dir() else []
    listing = f"runs here: {', '.join(known[-8:])}" if known else "no runs under runs/ yet: start one with ftcli train"
    raise ConfigError(Problem(where, f"{name} is not a run", listing))


def read_result(run: Path) -> dict[str, Any] | None:
    """The content of result.json, or None where the run is not finished.

    Raises:
        ConfigError: it is no JSON object; written atomically, it was changed since.
    """
    path = run / RESULT
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        result = None
    if not isinstance(result, dict):
        raise ConfigError(Problem(str(path), "is damaged", f"measure the run again with ftcli eval {run}"))
    return result
