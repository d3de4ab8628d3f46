"""All GPUs of the machine; DeepSpeed shards weights, gradients and optimiser state."""

from __future__ import annotations

from ftcli.launch.deepspeed_settings import zero
from ftcli.launch.profile import Profile, every_gpu

PROFILE = Profile(
    name="zero3",
    summary="Several GPUs that shard one model (DeepSpeed ZeRO-3): as fsdp, where DeepSpeed is preferred.",
    plan=every_gpu,
    train={"deepspeed": zero(3)},
)
