"""`train RUN_DIR [--resume CHECKPOINT]`: runs the spec.json of the folder."""

from __future__ import annotations

from pathlib import Path

from ftcli.worker.process.command import Command, Write
from ftcli.worker.training.run import train


def _run(run_dir: Path, flags: tuple[str, ...], _write: Write) -> None:
    train(run_dir, Path(flags[1]) if flags[:1] == ("--resume",) else None)


COMMAND: Command = _run
