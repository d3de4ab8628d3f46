"""Processes that the launcher started again: where they go on, and how often it happened.

torch's elastic launcher counts restarts per machine, and a machine that joined later begins at 0, so where to go on is
read from the run directory, which all share, and not from a process's own count.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.runs import rundir
from ftcli.runs.checkpoints import newest_valid
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.process.own_lines import say


def start_from(spec: RunSpec, run_dir: Path, requested: Path | None) -> Path | None:
    """The checkpoint to start from: the newest where processes may have been started again, else the requested one."""
    if not spec.launch.max_restarts:
        return requested
    # Their digests were compared when the run was resumed; every rank reading every byte would take hours.
    newest, _ = newest_valid(run_dir / rundir.CHECKPOINTS, files_to_resume(spec), digests=False)
    count = _count()
    if count and os.environ.get("LOCAL_RANK", "0") == "0":
        at = newest.name if newest else "the start"
        say(f"restart {count} of {spec.launch.max_restarts}: a process was lost, going on from {at}")
    return newest or requested


def total(config: Any) -> int:
    """How often the processes of this run were started again since the command; every process must call this."""
    if config.world_size == 1:
        return 0
    count = torch.tensor(_count(), device=config.device)
    distributed.all_reduce(count, distributed.ReduceOp.MAX)
    return int(count.item())


def _count() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
