"""RUN/evaluations: what `ftcli eval` measured of a run after it was finished, one file each time.

A run keeps all of them: a later one may have asked for other tasks, or fewer rows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftcli.core.untrusted import foreign_files
from ftcli.core.untrusted.printable import one_line
from ftcli.runs import rundir

FOLDER = "evaluations"
SCHEMA = 1
COLUMNS = ("before", "after", "measured")
"""Of a line of what was measured: a run's two models, or one by itself."""
MOST = 50
"""Evaluations that are read: the newest."""


def keep(run: Path, kind: str, found: Mapping[str, Any]) -> Path:
    """Write what was measured into a run's folder.

    Args:
        kind: what was measured: tasks, measures or judged.
        found: {"title", "lines", …}.

    Raises:
        OSError: the folder takes no file; it may be another user's.
    """
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    name = f"{now:%Y%m%d-%H%M%S-%f}-{kind}.json"
    digest = (rundir.read_result(run) or {}).get("model_manifest")
    about = {"schema": SCHEMA, "kind": kind, "date": now.isoformat(timespec="seconds"), "model_manifest": digest}
    rundir.write_json(folder / name, {**about, **found})
    return folder / name


def contents(run: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Name and content of each evaluation in a run's folder, oldest first; None for a file that is not as ftcli
    writes it, since it may be anybody's."""
    folder = run / FOLDER
    names = sorted(name for name in os.listdir(folder) if name.endswith(".json")) if folder.is_dir() else []
    for name in names[-MOST:]:
        try:
            found = foreign_files.read_json(folder / name)
            title = f"{found['title']}, {str(found['date'])[:16].replace('T', ' ')}"
            if found["schema"] <= SCHEMA:
                rows(found["lines"])
                yield one_line(title), dict(found)
                continue
        except (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration):
            pass
        yield one_line(name), None


def kept(run: Path) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Title and table of each evaluation in a run's folder, oldest first."""
    for title, found in contents(run):
        damaged = f"{title}: damaged, or of a later version of ftcli"
        yield (damaged, []) if found is None else (title, rows(found["lines"]))


def rows(lines: Any) -> list[tuple[str, ...]]:
    """Lines of what was measured as the rows of a table, with a head."""
    columns = [name for name in (*COLUMNS, "difference") if any(name in line for line in lines)]
    titles = [name if name != "difference" else "after - before" for name in columns]
    table: list[tuple[str, ...]] = [("", *titles, "rows")]
    for line in lines:
        last = next(line[name] for name in reversed(columns) if name in line)
        cells = [_cell(line.get(name), signed=name == "difference") for name in columns]
        table.append((one_line(str(line["name"])), *cells, str(int(last["rows"]))))
    return table


def intervals_of(lines: Any) -> str:
    """Which intervals lines have, in words."""
    names = {str(line[name]["interval"]) for line in lines for name in line if _has_interval(line[name])}
    return f"95 % intervals: {', '.join(sorted(names))}" if names else "no intervals"


def _has_interval(value: Any) -> bool:
    return isinstance(value, Mapping) and "interval" in value


def _cell(found: Mapping[str, Any] | None, *, signed: bool) -> str:
    if found is None:
        return ""
    value, low, high = (found.get(name) for name in ("value", "low", "high"))
    form = "+.4f" if signed else ".4f"
    text = format(float(value or 0.0), form)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return text
    return f"{text} [{format(float(low), form)}, {format(float(high), form)}]"
