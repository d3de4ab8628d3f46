"""Which rows a run did not train on as they are, and why: RUN/dropped.jsonl, a line for each, written as they are met.

The row ledger counts them and shows the first few; this file has all, and costs no memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem, RowProblem
from ftcli.core.untrusted import foreign_files

HELD_OUT, NOT_MIXED, TRUNCATED = "held out", "not drawn for the mix", "truncated"
"""Reasons beside those of the row ledger; a truncated row is trained on in part."""


class DroppedRows:
    """Writes the lines of one run; with no file it writes nothing."""

    def __init__(self, file: Path | None = None) -> None:
        self._handle = open(file, "w", encoding="utf-8") if file is not None else None  # noqa: SIM115
        self._kept = 0

    def __bool__(self) -> bool:
        return self._handle is not None

    def add(self, name: str, side: str, where: str, reason: str, what: str = "", field: str = "") -> None:
        """Write a row.

        Args:
            name: its set.
            side: `train` or `eval`.
            field: the path inside the row that is at fault, where there is one.
        """
        self._write({"set": name, "side": side, "where": where, "reason": reason, "field": field, "what": what})

    def unusable(self, name: str, side: str, problem: Problem) -> None:
        """Write a row that cannot be used."""
        self._write({"set": name, "side": side, **unusable(problem)})

    def copy(self, name: str, side: str, file: Path) -> None:
        """Write the unusable rows of a set that was tokenised, maybe by an earlier run."""
        if self._handle is None or not file.is_file():
            return
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                self._write({"set": name, "side": side, **json.loads(line)})

    def keep(self) -> None:
        """Let `begin_again` keep what was written so far."""
        if self._handle is not None:
            self._kept = self._handle.tell()

    def begin_again(self) -> None:
        """Remove what was written since `keep`: its rows are read anew."""
        if self._handle is not None:
            self._handle.seek(self._kept)
            self._handle.truncate()

    def flush(self) -> None:
        """Make what was written visible to other processes."""
        if self._handle is not None:
            self._handle.flush()

    def _write(self, row: dict[str, Any]) -> None:
        if self._handle is not None:
            self._handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def unusable(problem: Problem) -> dict[str, str]:
    """A row that cannot be used, without its set and side."""
    field = problem.field if isinstance(problem, RowProblem) else ""
    return {"where": problem.where, "reason": "unusable", "field": field, "what": problem.what}


def read(file: Path) -> Iterator[dict[str, str]]:
    """The lines of a run's file.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    try:
        for line in foreign_files.read_lines(file):
            if line.endswith("\n"):  # a run that is being read may be in the middle of a line
                row = foreign_files.parse_json(line)
                yield {**row, "where": row["where"], "reason": row["reason"]}
    except FileNotFoundError:
        fix = "runs of this version write it when they read their rows; ledger.json has the counts"
        raise ConfigError(Problem(str(file), "does not exist", fix)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(Problem(str(file), f"cannot be read: {error}", "start the run again")) from None
