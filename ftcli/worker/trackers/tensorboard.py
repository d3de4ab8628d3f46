"""TensorBoard: event files with a scalar a metric, and the configuration as text. Scalars are float32, as TensorBoard
reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ftcli.settings.tracker_declaration import TrackedRun


class EventFiles:
    """Writes event files."""

    logged = -1

    def __init__(self, run: TrackedRun, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder))
        texts = {"run": run.name, "id": run.id, "ledger": run.ledger}
        for name, text in texts.items():
            self._writer.add_text(f"ftcli/{name}", text, global_step=0)
        # Four spaces make it code in the Markdown of the page.
        config = "\n".join(f"    {line}" for line in json.dumps(run.config, indent=2, default=str).splitlines())
        self._writer.add_text("ftcli/config", config, global_step=0)
        self._writer.flush()

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        """Write a scalar for each number, to the disk."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, global_step=step, walltime=seconds)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
