"""Where a run stands, as far as its files and locks tell: at work, done, stopped, failed, or never begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.core.exit_codes import EXIT_DONE, EXIT_GATE, EXIT_INTERRUPTED
from ftcli.runs import run_end, rundir
from ftcli.runs.metrics import read_metrics
from ftcli.runs.run_end import RunEnd

RUNNING, DONE, STOPPED, FAILED, LOST, PREPARED = "running", "done", "stopped", "failed", "lost", "prepared"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands."""

    name: str
    """`running`, `done`, `stopped` (resumable), `failed` (end.json says why), `lost` (it ended without a word) or
    `prepared` (it has a folder, and nothing has begun)."""
    end: RunEnd | None
    """How its last command ended; None while it is at work."""
    step: int
    """The last step of which metrics were written; 0 before the first."""

    @property
    def whole(self) -> bool:
        """Whether it has all that it was to make: done, or it did not pass its gate."""
        return self.name == DONE or (self.end is not None and self.end.code == EXIT_GATE)

    def text(self) -> str:
        """One line for people."""
        at = f"at step {self.step}" if self.step else "before its first step"
        match self.name:
            case "running":
                return f"at work, {at}"
            case "done":
                return f"done, {at}"
            case "prepared":
                return "not begun"
            case "lost":
                return f"ended without a word, {at}: its command was killed, or its machine went down"
        assert self.end is not None
        return f"{self.name} {at}: {self.end.text()}"


def run_state(run: Path, lines: Sequence[Mapping[str, Any]] | None = None) -> RunState:
    """Where the run in a folder stands; nothing is changed.

    Args:
        lines: of its metrics.jsonl, where they were read already.
    """
    lines = read_metrics(run / rundir.METRICS) if lines is None else lines
    step = max((line["step"] for line in lines), default=0)
    end, has_result = run_end.read(run), rundir.read_result(run) is not None
    # A command that has just finished a run still holds its lock; one that begins removes end.json first.
    if has_result and end is not None and end.code in (EXIT_DONE, EXIT_GATE):
        return RunState(name=DONE if end.code == EXIT_DONE else FAILED, end=end, step=step)
    if rundir.in_use(run):
        return RunState(name=RUNNING, end=None, step=step)
    if has_result and end is None:  # by a version without end.json
        return RunState(name=DONE, end=end, step=step)
    if end is None or end.code == EXIT_DONE:
        return RunState(name=LOST if lines or (run / rundir.LOG).is_file() else PREPARED, end=None, step=step)
    return RunState(name=STOPPED if end.code == EXIT_INTERRUPTED else FAILED, end=end, step=step)
