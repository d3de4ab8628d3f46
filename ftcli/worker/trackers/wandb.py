"""Weights & Biases: offline in the run's folder, or online. Nothing but the run's name, configuration and numbers is
kept: no code, no git, no command line, no machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftcli.settings.tracker_declaration import TrackedRun

_SECONDS = 25.0
"""How long it may take to begin and to send what is left."""


class WandbRun:
    """Writes a run of wandb."""

    def __init__(self, run: TrackedRun, settings: Mapping[str, Any]) -> None:
        folders = {f"WANDB_{name}_DIR": str(run.folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        folders |= {"WANDB_DIR": str(run.folder), "WANDB_ARTIFACT_DIR": str(run.folder / "artifacts")}
        # Read while it is imported; errors of its own are not reported to its makers.
        os.environ.update(folders, WANDB_MODE=settings["mode"], WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
        import wandb

        own = {"base_url": settings["base_url"]} if settings["base_url"] else {}
        quiet = wandb.Settings(
            mode=settings["mode"], root_dir=str(run.folder), silent=True, console="off", symlink=False, host="ftcli",
            init_timeout=_SECONDS, finish_timeout=_SECONDS, finish_timeout_raises=True,
            disable_git=True, disable_code=True, save_code=False, disable_job_creation=True,
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,
            **own,
        )  # fmt: skip
        online = settings["mode"] == "online"
        config = {**run.config, "ledger_sha256": run.ledger}
        self._wandb = wandb
        self._run = wandb.init(
            project=settings["project"], entity=settings["entity"], name=run.name, id=run.id, config=config,
            dir=str(run.folder), settings=quiet, resume="allow" if online else None,
        )  # fmt: skip
        self.logged = self._run.step - 1 if online and self._run.resumed else -1
        _remove_links(run.folder)

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        """Add the numbers to their step."""
        self._run.log({**metrics, "_timestamp": seconds}, step=step)

    def close(self) -> None:
        """Finish the run, and end the process that writes it."""
        self._run.finish()
        self._wandb.teardown()


def _remove_links(folder: Path) -> None:
    """Remove the links to logs: in a copy of the run they would lead out of it, and such a folder is refused."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            path.unlink(missing_ok=True)
