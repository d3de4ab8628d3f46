"""trackio: a database in the run's folder, or a Space at the hub.

The database is written through trackio's own storage, and not through `trackio.init`: that asks the hub who is logged
in, and only warns where a line cannot be written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ftcli.settings.tracker_declaration import TrackedRun


class TrackioRun:
    """Writes a run of trackio."""

    def __init__(self, run: TrackedRun, settings: Mapping[str, Any]) -> None:
        # Variables of the user's would send the run to a Space, a bucket or a server that no setting names.
        for name in [name for name in os.environ if name.startswith("TRACKIO_")]:
            del os.environ[name]
        os.environ["TRACKIO_DIR"] = str(run.folder)  # read while it is imported
        self._project, self._name, self._id = settings["project"], run.name, run.id
        self._config: dict[str, Any] | None = {**run.config, "ledger_sha256": run.ledger}
        self._run: Any = None
        self.logged = -1
        if settings["space_id"]:
            import trackio

            _require_folder(run)
            self._run = trackio.init(
                self._project, name=f"{run.name} {run.id}", space_id=settings["space_id"], private=settings["private"],
                config=self._config, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
            self.logged = int(self._run._next_step) - 1
            return
        from trackio.sqlite_storage import SQLiteStorage

        _require_folder(run)
        self._storage = SQLiteStorage

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        """Add a line to the database, the first with the configuration; or send it."""
        if self._run is not None:
            self._run.log(dict(metrics), step=step)
            return
        self._storage.bulk_log(
            project=self._project,
            run=self._name,
            run_id=self._id,
            metrics_list=[dict(metrics)],
            steps=[step],
            timestamps=[datetime.fromtimestamp(seconds, UTC).isoformat()],
            config=self._config,
        )
        self._config = None  # which a run has once

    def close(self) -> None:
        """Send what is left."""
        if self._run is not None:
            self._run.finish()


def _require_folder(run: TrackedRun) -> None:
    """Make sure that trackio writes in the run: it takes its folder while it is imported, and has it then for good."""
    from trackio import utils

    if run.folder != utils.TRACKIO_DIR:
        raise RuntimeError(f"trackio was imported before, and would write to {utils.TRACKIO_DIR}")
