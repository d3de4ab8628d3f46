"""The worker, with accelerate told that processes on a CPU may shard a model as those on GPUs do.

    accelerate launch --multi_gpu --num_processes 2 … tests/sharded.py train RUN [--resume CHECKPOINT]

accelerate itself takes FSDP on a CPU for DDP, and DeepSpeed for nothing. What is changed is that choice and no more:
the processes, the collectives (gloo), torch's FSDP2 and DeepSpeed's ZeRO are the real ones.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType


def allow_fsdp() -> None:
    """Several processes on a CPU count as what FSDP takes."""
    start = PartialState.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = __init__  # type: ignore[method-assign]


def allow_deepspeed() -> None:
    """A CPU is DeepSpeed's accelerator, and accelerate is not told that there is nothing else."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.pop("ACCELERATE_USE_CPU", None)
    import deepspeed

    # Only its inference reduces in shared memory; for that it would run a C++ compiler for a minute in every session.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo")  # which accelerate does on a GPU


if __name__ == "__main__":
    from ftcli.runs import rundir
    from ftcli.settings.run_spec import RunSpec
    from ftcli.worker.__main__ import leave, main

    settings = RunSpec.load(Path(sys.argv[2]) / rundir.SPEC).train
    if settings.get("deepspeed"):
        allow_deepspeed()
    elif settings.get("fsdp"):
        allow_fsdp()
    leave(main(sys.argv[1:]), sys.argv[1:])
