"""The order of a sweep's jobs: every combination in turn, or what a search asks for next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError
from ftcli.runs import rundir
from ftcli.runs.metrics import read_metrics
from ftcli.sweeps.optuna_study import Study
from ftcli.sweeps.sweep_folder import Sweep, SweepJob, ended
from ftcli.sweeps.sweep_settings import SweepSettings


class Grid:
    """The jobs that are listed in the sweep and have not ended."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._open = [job for job in sweep.jobs if job.end is None]

    def next(self) -> SweepJob | None:
        """The next one."""
        return self._open.pop(0) if self._open else None

    def is_hopeless(self, job: SweepJob) -> bool:
        """Never: each combination is trained to its end."""
        return False

    def ended(self, job: SweepJob, code: int, *, stopped: bool) -> None:
        """Write it down."""
        self._sweep.put(ended(self._sweep, job, code))


class Search:
    """The jobs that a study asks for; the number of a trial is the place of its job in the sweep."""

    def __init__(
        self,
        sweep: Sweep,
        study: Study,
        settings: SweepSettings,
        make: Callable[[Mapping[str, str]], SweepJob],
    ) -> None:
        """A queue.

        Args:
            make: the job with these values; one that cannot be composed has failed.
        """
        self._sweep, self._study, self._settings, self._make = sweep, study, settings, make
        self._sizes: dict[str, int] = {}

    def next(self) -> SweepJob | None:
        """First those that were interrupted, then as many as there are to be trials."""
        while self._study.has_begun() or self._study.count() < self._settings.trials:
            number, values = self._study.ask()
            known = number < len(self._sweep.jobs)
            job = self._sweep.jobs[number] if known else self._make(values)
            if not known:
                self._sweep.put(job)
            if job.end is None:
                return job
            self._tell(job)  # refused, or ended just before a kill
        return None

    def is_hopeless(self, job: SweepJob) -> bool:
        """Whether the pruner says so, by the held-out loss of its evaluations."""
        file = judged(self._sweep.run_dir(job)) / rundir.METRICS
        size = file.stat().st_size if file.is_file() else 0
        if self._settings.prunes_by == "none" or size == self._sizes.get(job.name, 0):
            return False
        self._sizes[job.name] = size
        return self._study.is_hopeless(self._number(job), held_out_losses(file))

    def ended(self, job: SweepJob, code: int, *, stopped: bool) -> None:
        """Write it down, then tell the study: a kill in between is made good by `next`."""
        job = ended(self._sweep, job, code, pruned=stopped)
        self._sweep.put(job)
        if job.end is not None:
            self._tell(job)

    def _tell(self, job: SweepJob) -> None:
        run = self._sweep.run_dir(job)
        value = measured(run, self._settings.measure) if job.end == "done" else None
        losses = held_out_losses(judged(run) / rundir.METRICS)
        self._study.tell(self._number(job), value, pruned=job.end == "pruned", losses=losses)

    def _number(self, job: SweepJob) -> int:
        return [each.name for each in self._sweep.jobs].index(job.name)


def judged(folder: Path) -> Path:
    """The run by which a job is judged: itself, or the last stage of a pipeline."""
    if not rundir.is_pipeline(folder):
        return folder
    try:
        return folder / str([*rundir.read_pipeline(folder)["stages"]][-1])
    except ConfigError:
        return folder


def held_out_losses(file: Path) -> dict[int, float]:
    """The held-out loss by step, out of metrics.jsonl."""
    lines = [line for line in read_metrics(file) if isinstance(line, dict)]
    found = {line.get("step"): line.get("eval_loss") for line in lines if "eval_loss" in line}
    return {step: float(loss) for step, loss in found.items() if type(step) is int and isinstance(loss, float | int)}


def measured(run: Path, measure: str) -> float | None:
    """What a finished run measured after training, by the name of a measure; None where it did not."""
    try:
        result = rundir.read_result(judged(run))
    except ConfigError:
        return None
    of: Any = (result or {}).get(measure)
    value = of.get("after") if isinstance(of, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
