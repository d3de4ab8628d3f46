"""All that a run's folder tells of it, wherever it stands: what a report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcli.build import fitting, gate
from ftcli.core.text import duration
from ftcli.publishing import push_record
from ftcli.reports.result_rows import result_rows
from ftcli.runs import rundir
from ftcli.runs.metrics import read_metrics
from ftcli.runs.resume_line import resume_with
from ftcli.runs.run_state import DONE, RUNNING, RunState, run_state
from ftcli.runs.worker_records import read_phases
from ftcli.settings.run_spec import RunSpec

_SEEN_SECONDS = 0.05
"""Of a phase that had something to do."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What the folder of a run tells."""

    name: str
    """It is shown under this."""
    folder: Path
    state: RunState
    rows: tuple[tuple[str, str], ...]
    """What came of it so far: name and text."""
    spec: RunSpec
    result: Mapping[str, Any] | None
    """The content of result.json; None where it has none."""
    planned: Mapping[str, float | None]
    """What its plan expects of a card, in the figures that result.json has; {} on a CPU."""
    lines: tuple[Mapping[str, Any], ...]
    """Of metrics.jsonl."""


def run_record(run: Path, name: str) -> RunRecord:
    """The record of the run in a folder.

    Args:
        name: it is shown under this.

    Raises:
        ConfigError: a file of it is damaged, or not as ftcli writes it.
    """
    spec = gate.opened(run)
    with rundir.stored(run):
        lines, result = tuple(read_metrics(run / rundir.METRICS)), rundir.read_result(run)
        state = run_state(run, lines)
        planned: Mapping[str, float | None] = {}
        if result is not None and state.whole:
            planned = fitting.kept_expected(run)
            rows = result_rows(run, result, planned)
            if state.name != DONE:
                rows = [("state", state.text()), *rows]
        else:
            rows = [*_unfinished_rows(run, spec, state, lines)]
        if pushed := push_record.described(run):
            rows.append(("pushed", pushed))
        rows += _phases(run)
        return RunRecord(
            name=name, folder=run, state=state, rows=tuple(rows), spec=spec, result=result, planned=planned, lines=lines
        )


def told_apart(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Each run once; those of one name, as the stages of two pipelines, under as much of their path as differs."""
    found = [*{each.folder: each for each in records}.values()]
    for depth in range(2, max((len(each.folder.parts) for each in found), default=0) + 1):
        named = Counter(each.name for each in found)
        if len(named) == len(found):
            break
        found = [
            each if named[each.name] == 1 else replace(each, name="/".join(each.folder.parts[-depth:]))
            for each in found
        ]
    return found


def _phases(run: Path) -> Iterator[tuple[str, str]]:
    """What its last worker did, and how long that took; within another phase in brackets behind it."""
    phases, parts = read_phases(run), list[str]()
    for each in phases.over if phases is not None else ():
        if each.seconds < _SEEN_SECONDS:
            continue
        often = f" {each.times} times," if each.times > 1 else ""
        text = f"{each.name}{often} {duration(each.seconds)}"
        if each.within and parts:
            parts[-1] += f" ({text})"
        else:
            parts.append(text)
    if parts:
        yield "phases", ", ".join(parts)


def _unfinished_rows(
    run: Path, spec: RunSpec, state: RunState, lines: tuple[Mapping[str, Any], ...]
) -> Iterator[tuple[str, str]]:
    chosen = spec.choices
    yield "state", state.text()
    yield "trains", f"{chosen['method']} of {spec.model.name_or_path}, peft={chosen['peft']}"
    steps = spec.train.get("max_steps")
    yield "steps", f"{state.step} of {steps}" if type(steps) is int and steps > 0 else str(state.step)
    for title, key in (("loss", "loss"), ("held-out loss", "eval_loss"), ("reward", "reward")):
        values = [line[key] for line in lines if isinstance(line.get(key), int | float)]
        if values:
            yield title, f"{values[0]:.4f} → {values[-1]:.4f}" if len(values) > 1 else f"{values[0]:.4f}"
    if lines:
        yield "time", duration(float(lines[-1]["elapsed_seconds"]))
    if state.name not in (RUNNING, DONE):
        yield "to go on", resume_with(run).removeprefix("resume with: ")
