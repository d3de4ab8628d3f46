"""Where a number comes from, as `--json` prints it: the run's directory, when it began, its seed and its rates."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec

KEY = "provenance"
"""Its key in the output of every command that is about a run."""


def of_spec(spec: RunSpec) -> dict[str, Any]:
    """That of a run that has not begun: it has no date yet, and of the rates those that it was told to learn at."""
    return {"directory": str(spec.run.dir), "date": None, "seed": spec.seed, "rates": _learning_rates(spec)}


def of_folder(folder: Path) -> dict[str, Any]:
    """That of a run or pipeline with a folder; of a pipeline also those of its runs, by stage.

    Raises:
        ConfigError: a file of the folder is damaged.
    """
    place = {"directory": str(folder.resolve()), "date": _begun(folder)}
    if not rundir.is_run(folder):
        stages = sorted(each for each in folder.iterdir() if rundir.is_run(each))
        return {**place, "stages": {each.name: of_folder(each) for each in stages}}
    spec, result = RunSpec.load(folder / rundir.SPEC), rundir.read_result(folder)
    rates = {**_learning_rates(spec), **(_speeds(result) if result is not None else {})}
    return {**place, "seed": spec.seed, "rates": rates}


def of_model(name: str) -> dict[str, Any] | None:
    """That of the run that a model's name or folder refers to; None where it is no model of a run."""
    path = Path(name)
    inside = path.parent if path.name == rundir.MODEL and rundir.is_run(path.parent) else None
    run = inside or rundir.find_run(name)
    return of_folder(run) if run is not None else None


def _begun(folder: Path) -> str | None:
    """When the folder was made, which its command has been in since; None where it has none."""
    try:
        seconds = (folder / rundir.COMMAND).stat().st_mtime
    except OSError:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _learning_rates(spec: RunSpec) -> dict[str, float]:
    """Every learning rate that the run has: the policy's, a critic's, one for a part of an adapter."""
    found = {}
    for group in (spec.train, spec.method, spec.peft):
        found.update(
            {key: value for key, value in group.items() if key.endswith("learning_rate") and value is not None}
        )
    return found


def _speeds(result: Mapping[str, Any]) -> dict[str, float]:
    """Tokens and steps a second, over the seconds of training."""
    with rundir.stored(Path(rundir.RESULT)):
        seconds = float(result.get("seconds") or 0)
        counted = {"tokens": result.get("tokens_trained"), "steps": result.get("steps")}
        return {f"{name}_per_second": number / seconds for name, number in counted.items() if seconds and number}
