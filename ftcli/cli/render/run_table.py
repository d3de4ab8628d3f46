"""A table of runs, as text, JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from ftcli.cli import output
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.untrusted.printable import one_line
from ftcli.sweeps.job_names import short_keys
from ftcli.sweeps.run_table import RunRow, RunTable
from ftcli.sweeps.sweep_folder import Sweep

_MOST_COLUMNS = 6
"""Settings with a column each; of more, a line names those in which runs differ."""
_LONGEST = 40
_MEASURES = ("held_out_loss", "score", "seconds", "steps")


def show(table: RunTable, *, form: str = "text") -> None:
    """Print a table, with what keeps its measures from being compared.

    Args:
        form: text, json or csv.
    """
    if form == "json":
        output.data(table.to_data())
        return
    if form == "csv":
        output.text(as_csv(table), end="")
    else:
        output.lines(as_text(table))
    for note in table.notes:
        output.warn(note)


def sweep_data(sweep: Sweep, table: RunTable) -> dict[str, Any]:
    """The table of a sweep as plain data, as in its results.json."""
    return {"sweep": str(sweep.folder), "kind": sweep.kind, **table.to_data()}


def show_sweep(sweep: Sweep, table: RunTable, *, as_json: bool) -> int:
    """Print the table of a sweep; returns the exit code for having done so."""
    if as_json:
        output.data(sweep_data(sweep, table))
    else:
        show(table)
    return EXIT_DONE


def as_text(table: RunTable) -> list[str]:
    """The lines of a table for people."""
    from ftcli.core.text import aligned

    apart = len(table.differs) <= _MOST_COLUMNS
    short = short_keys(table.differs)
    heads = ["held-out loss", "score", "time", "state"]
    if not apart:
        rows = [["run", *heads, "differs from the first in"]]
        rows += [[row.name, *_measures(row), _state(row), _differences(row, table)] for row in table.rows]
        return aligned(rows)
    rows = [["run", *(short[key] for key in table.differs), *heads]]
    for row in table.rows:
        rows.append([row.name, *(_value(row.settings.get(key)) for key in table.differs), *_measures(row), _state(row)])
    return aligned(rows)


def _differences(row: RunRow, table: RunTable) -> str:
    usual = {key: table.rows[0].settings.get(key) for key in table.differs}
    own = [f"{key}={_value(row.settings.get(key))}" for key in table.differs if row.settings.get(key) != usual[key]]
    return " ".join(own) or "-"


def _value(value: Any) -> str:
    text = "-" if value is None else one_line(str(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _measures(row: RunRow) -> list[str]:
    loss = "-" if row.held_out_loss is None else f"{row.held_out_loss:.4f}"
    share = ".3f" if row.score_name == "mean_reward" else ".1%"
    score = "-" if row.score is None else f"{row.score:{share}}"
    return [loss, score, "-" if row.seconds is None else output.duration(row.seconds)]


def _state(row: RunRow) -> str:
    return f"{row.state}: {row.cause}" if row.cause else row.state


def as_csv(table: RunTable) -> str:
    """A table for spreadsheets: a line for each run, the settings in which they differ by their whole names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["name", "state", *table.differs, *_MEASURES, "score_name", "code", "cause", "run"]
    writer.writerow(map(_cell, head))
    for row in table.rows:
        own = [row.settings.get(key) for key in table.differs]
        measures = [getattr(row, name) for name in _MEASURES]
        cells = [row.name, row.state, *own, *measures, row.score_name, row.code, row.cause, row.run]
        writer.writerow(map(_cell, cells))
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A value as a cell: a text that a spreadsheet would compute is marked as text."""
    if value is None or isinstance(value, int | float):
        return value
    text = one_line(str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def list_runs(rows: Sequence[RunRow], *, form: str) -> None:
    """Print runs in their own order, each with what was trained."""
    if form == "text":
        lines = [["run", "trained", "held-out loss", "score", "time", "state"]]
        lines += [[row.name, _trained(row), *_measures(row), _state(row)] for row in rows]
        output.table(lines)
        return
    if form == "json":
        output.data([row.to_data(()) for row in rows])
    else:
        output.text(
            as_csv(RunTable(rows=tuple(rows), differs=("method", "model", "peft"), measure="held_out_loss")), end=""
        )


def _trained(row: RunRow) -> str:
    peft = row.settings.get("peft")
    return f"{row.method} of {row.model}" + (f", peft={peft}" if peft not in (None, "none") else "")
