"""Runs at a glance, from their files alone: where each stands, how far it is, and what it measures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ftcli.build import gate
from ftcli.core.errors import ConfigError, FtcliError
from ftcli.core.text import duration
from ftcli.core.untrusted import foreign_files
from ftcli.reports.curves import sparkline
from ftcli.runs import rundir
from ftcli.runs.metrics import read_metrics
from ftcli.runs.run_state import DONE, RUNNING, RunState, run_state
from ftcli.runs.worker_records import read_phases
from ftcli.settings.run_spec import RunSpec

COLUMNS = ("run", "state", "done", "loss", "held-out", "reward", "tokens/s", "left", "curve", "")
"""Of a table of runs; the last says what a run does, or why it ended."""
DAMAGED = "damaged"
MOST_RUNS = 50
"""Of a folder: the newest."""
_DEPTH = 3
"""Folders below the one that is looked at: NAME, TIME, and a pipeline's stage."""
DRAWN = ("reward", "loss")
"""The measure whose curve is shown: the first that a run has."""
_LOG_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Glance:
    """One run."""

    name: str
    folder: Path
    state: str
    """As RunState.name, or DAMAGED."""
    doing: str = ""
    """What it does now, or why it ended."""
    share: float | None = None
    """Of its steps that are done, 0 to 1; None where that is not known."""
    step: int = 0
    loss: float | None = None
    held_out: float | None = None
    reward: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    """Of its steps, at the pace so far; None where it is not at work."""
    curve: str = ""
    """Its losses, or rewards, as a line of blocks."""

    def cells(self) -> tuple[str, ...]:
        """What COLUMNS has of it, as text."""

        def number(value: float | None, form: str) -> str:
            return "" if value is None else format(value, form)

        done = "" if self.share is None else f"{self.share:.0%}"
        left = "" if self.seconds_left is None else duration(self.seconds_left)
        return (
            self.name, self.state, f"{done} step {self.step}".strip() if self.step else done, number(self.loss, ".4f"),
            number(self.held_out, ".4f"), number(self.reward, ".4f"), number(self.tokens_per_second, ",.0f"), left,
            self.curve, self.doing,
        )  # fmt: skip

    @property
    def over(self) -> bool:
        """Whether nothing is at work there."""
        return self.state != RUNNING


def folders(place: Path) -> dict[str, Path]:
    """The run in a folder, or the newest runs below it, by the name that each is shown under; the newest last."""
    found = sorted(_runs(place, _DEPTH), key=rundir.run_order)[-MOST_RUNS:]
    return {rundir.shown_name(run) if run == place else str(run.relative_to(place)): run for run in found}


def glances(place: Path) -> list[Glance]:
    """What is known of each of these runs."""
    return [_glance(run, name) for name, run in folders(place).items()]


def rows(found: Sequence[Glance], without: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """The table, without columns in which no run has anything, and without those named."""
    every = [COLUMNS, *(each.cells() for each in found)] if found else [("no runs here yet",)]
    kept = [
        place
        for place in range(len(every[0]))
        if place == 0 or (COLUMNS[place] not in without and any(row[place] for row in every[1:]))
    ]
    return [tuple(row[place] for place in kept) for row in every]


def _runs(place: Path, depth: int) -> Iterator[Path]:
    if rundir.is_run(place):
        yield place
    elif depth:
        try:
            below = [each for each in place.iterdir() if each.is_dir() and not each.is_symlink()]
        except OSError:
            return
        for each in below:
            yield from _runs(each, depth - 1)


def _glance(run: Path, name: str) -> Glance:
    try:
        with rundir.stored(run):
            return _read(run, name)
    except (FtcliError, OSError) as error:
        what = error.problems[0].what if isinstance(error, ConfigError) else str(error)
        return Glance(name=name, folder=run, state=DAMAGED, doing=what)


_Stamp = tuple[int, int, int]
_ADMITTED: dict[Path, tuple[_Stamp, RunSpec | ConfigError]] = {}
"""What the gate made of each spec.json, by its bytes' time: a table that is drawn every two seconds asks once."""
_MOST_ADMITTED = 4 * MOST_RUNS


def _admitted(run: Path) -> RunSpec:
    """The spec of a run, checked once for each change of its file; whether a link leads out, each time.

    Raises:
        ConfigError: every problem in it.
    """
    rundir.require_own_files(run)
    about = (run / rundir.SPEC).stat()
    stamp = about.st_ino, about.st_size, about.st_mtime_ns
    known = _ADMITTED.get(run)
    if known is None or known[0] != stamp:
        if len(_ADMITTED) >= _MOST_ADMITTED:
            _ADMITTED.clear()
        try:
            known = stamp, gate.opened(run)
        except ConfigError as error:
            known = stamp, error
        _ADMITTED[run] = known
    if isinstance(known[1], ConfigError):
        raise ConfigError(*known[1].problems)
    return known[1]


def _read(run: Path, name: str) -> Glance:
    spec, lines = _admitted(run.absolute()), read_metrics(run / rundir.METRICS)
    state, last = run_state(run, lines), _last(lines)
    share = 1.0 if state.name == DONE else _share(spec, last)
    elapsed = last.get("elapsed_seconds")
    left = None
    if state.name == RUNNING and share and isinstance(elapsed, int | float):
        left = elapsed * (1 - share) / share
    drawn = next((key for key in DRAWN if key in last), DRAWN[-1])
    points = [(float(line["step"]), float(line[drawn])) for line in lines if _number(line.get(drawn))]
    return Glance(
        name=name, folder=run, state=state.name, doing=_doing(run, state), share=share, step=state.step,
        loss=last.get("loss"), held_out=last.get("eval_loss"), reward=last.get("reward"),
        tokens_per_second=last.get("tokens_per_second") if state.name == RUNNING else None, seconds_left=left,
        curve=sparkline(points, 24),
    )  # fmt: skip


def _last(lines: list[dict[str, Any]]) -> Mapping[str, Any]:
    """The last value of each measure."""
    found: dict[str, Any] = {}
    for line in lines:
        found.update({key: value for key, value in line.items() if _number(value)})
    return found


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _share(spec: RunSpec, last: Mapping[str, Any]) -> float | None:
    """The share of a run's steps that are done, by its number of steps, else by its epochs."""
    steps, epochs = spec.train.get("max_steps"), spec.train.get("num_train_epochs")
    if _number(steps) and steps > 0:
        return min(1.0, float(last.get("step", 0)) / steps)
    if _number(epochs) and epochs > 0:
        return min(1.0, float(last.get("epoch", 0.0)) / epochs)
    return None


def _doing(run: Path, state: RunState) -> str:
    if state.name != RUNNING:
        return state.end.message if state.end is not None else ""
    phases = read_phases(run)
    if phases is not None and phases.now:
        of = "" if phases.total is None else f" of {phases.total:,}"
        count = f": {phases.done:,}{of} {phases.unit}" if phases.done is not None and phases.unit else ""
        return f"{phases.now}{count} ({duration(max(0.0, time.time() - phases.since))})"
    try:  # what runs of earlier versions told last
        with foreign_files.opened(run / rundir.LOG) as log:
            log.seek(max(0, (run / rundir.LOG).stat().st_size - _LOG_BYTES))
            said = log.read().decode("utf-8", "replace").split("\n")
        age = time.time() - (run / rundir.LOG).stat().st_mtime
    except (OSError, ValueError):
        return ""
    line = next((each.rsplit("\r", 1)[-1].strip() for each in reversed(said) if each.strip()), "")
    return f"{line} ({age:.0f} s ago)" if age > 60 else line
