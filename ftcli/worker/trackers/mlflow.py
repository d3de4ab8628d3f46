"""MLflow: a folder in the run, or a tracking server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ftcli.settings.tracker_declaration import TrackedRun

_ID, _LEDGER = "ftcli.id", "ftcli.ledger_sha256"
_MOST_PARAMETERS, _MOST_TEXT = 100, 6000
_ODD = re.compile(r"[^\w./ :-]")
"""What no name of a metric or a parameter may hold."""


class MlflowRun:
    """Writes a run of MLflow."""

    def __init__(self, run: TrackedRun, settings: Mapping[str, Any]) -> None:
        remote = settings["tracking_uri"]
        # The folder form needs no database library; MLflow keeps it behind a variable. It sends no telemetry.
        os.environ.update(MLFLOW_ALLOW_FILE_STORE="true", MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=remote or run.folder.as_uri())
        name = settings["experiment"]
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self.logged, found = -1, []
        if remote and run.step:
            found = self._client.search_runs([experiment], f"tags.`{_ID}` = '{run.id}'")
        if found:
            self._id = found[0].info.run_id
            self.logged = max(self._steps(found[0].data.metrics), default=-1)
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {_ID: run.id, _LEDGER: run.ledger}
        self._id = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        parameters = [Param(_named(key), text[:_MOST_TEXT]) for key, text in _flat(run.config)]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self._id, params=parameters[start : start + _MOST_PARAMETERS])

    def _steps(self, metrics: Mapping[str, Any]) -> Iterator[int]:
        for name in metrics:
            yield from (int(each.step) for each in self._client.get_metric_history(self._id, name))

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        """Log the numbers of a line."""
        stamp = round(seconds * 1000)
        named = [self._metric(_named(name), float(value), stamp, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=named)

    def close(self) -> None:
        """Say that the run is finished."""
        self._client.set_terminated(self._id)


def _named(name: str) -> str:
    return _ODD.sub("_", name)[:250]


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Every setting by its name with dots, as text."""
    for key, own in value.items():
        if isinstance(own, Mapping) and own:
            yield from _flat(own, f"{above}{key}.")
        else:
            yield f"{above}{key}", str(own)
