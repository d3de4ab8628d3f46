"""All GPUs of the machine; DeepSpeed shards gradients and optimiser state, and each keeps the weights."""

from __future__ import annotations

from ftcli.launch.deepspeed_settings import zero
from ftcli.launch.profile import Profile, every_gpu

PROFILE = Profile(
    name="zero2",
    summary="Several GPUs that shard gradients and optimiser state (DeepSpeed ZeRO-2); each holds the weights.",
    plan=every_gpu,
    train={"deepspeed": zero(2)},
)
