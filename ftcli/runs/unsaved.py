"""What a run loses that ends at once: the steps since its newest checkpoint, as far as its metrics tell."""

from __future__ import annotations

from pathlib import Path

from ftcli.runs import rundir
from ftcli.runs.checkpoints import sealed, step_of
from ftcli.runs.metrics import read_metrics


def lost(run: Path) -> str:
    """A phrase for what is lost of a run, or of a synthesis stage, whose process was killed."""
    if not rundir.is_run(run):
        return "lost: nothing, finished items are kept"
    checkpoints = sealed(run / rundir.CHECKPOINTS)
    newest = checkpoints[-1] if checkpoints else None
    kept = (step_of(newest) or 0) if newest else 0
    logged = [0, *(int(line["step"]) for line in read_metrics(run / rundir.METRICS) if "loss" in line)]
    steps = max(0, logged[-1] - kept)
    if not steps:
        return f"lost: nothing, no step since {newest.name}" if newest else "lost: nothing, no step was finished"
    # Between two lines there may be more steps than one.
    more = " or more" if len(logged) > 2 and logged[-1] - logged[-2] > 1 else ""
    since = f"since {newest.name}" if newest else "as there is no checkpoint"
    return f"lost: {steps} {'step' if steps == 1 and not more else 'steps'}{more}{' ' if newest else ', '}{since}"
