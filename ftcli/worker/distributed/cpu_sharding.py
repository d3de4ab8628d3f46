"""FSDP2 and DeepSpeed on CPU processes, so that a sharded run can be tried, and tested, without a GPU.

accelerate takes FSDP on a CPU for DDP, and DeepSpeed for nothing. What is changed here is that choice and no more: the
processes, the collectives (gloo), torch's FSDP2 and DeepSpeed's ZeRO are the real ones.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from ftcli.core.errors import ConfigError, Problem
from ftcli.settings.run_spec import RunSpec


def enable(spec: RunSpec) -> None:
    """Let the processes of a run on the CPU shard its model as those on GPUs do; call it before the trainer's config
    is made."""
    if spec.launch.device != "cpu" or spec.launch.num_processes == 1:
        return
    if spec.train.get("deepspeed"):
        _deepspeed()
    elif spec.train.get("fsdp"):
        _fsdp()


def _fsdp() -> None:
    """Several processes on a CPU count as what FSDP takes."""
    start = PartialState.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = __init__  # type: ignore[method-assign]


def _deepspeed() -> None:
    """A CPU is DeepSpeed's accelerator, and accelerate is not told that there is nothing else."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.pop("ACCELERATE_USE_CPU", None)
    deepspeed: Any = importlib.import_module("deepspeed")  # only where a run says so: it costs seconds

    # Only its inference reduces in shared memory; for that it would run a C++ compiler for a minute in every session.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo")  # which accelerate does on a GPU


def require_planned(spec: RunSpec, trainer: Any) -> None:
    """Refuse a trainer that shards otherwise than planned: accelerate makes DDP of what it cannot shard, silently.

    Raises:
        ConfigError: names the planned and the actual sharding.
    """
    planned = "DeepSpeed" if spec.train.get("deepspeed") else "FSDP" if spec.train.get("fsdp") else ""
    kinds = {DistributedType.DEEPSPEED: "DeepSpeed", DistributedType.FSDP: "FSDP"}
    found = kinds.get(trainer.accelerator.distributed_type, "")
    if planned != found:
        what = f"planned for {planned or 'a copy of the model in each process'}, but started with {found or 'copies'}"
        raise ConfigError(Problem("hardware", what, "start the run with ftcli train; ftcli doctor shows the hardware"))
