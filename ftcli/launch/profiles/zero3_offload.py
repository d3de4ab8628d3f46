"""ZeRO-3 with weights and optimiser state in the host's memory."""

from __future__ import annotations

from ftcli.launch.deepspeed_settings import zero
from ftcli.launch.profile import Profile, every_gpu

PROFILE = Profile(
    name="zero3_offload",
    summary="ZeRO-3 with the shards in the host's memory: slower, for a model that all GPUs together cannot hold.",
    plan=every_gpu,
    train={"deepspeed": zero(3, offload=True)},
)
