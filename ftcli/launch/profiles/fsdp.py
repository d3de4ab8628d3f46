"""All GPUs of the machine; torch's FSDP2 shards weights, gradients and optimiser state (Zhao et al. 2023)."""

from __future__ import annotations

from ftcli.launch.profile import Profile, every_gpu

PROFILE = Profile(
    name="fsdp",
    summary="Several GPUs that shard one model (FSDP2): for a model that one GPU cannot train.",
    plan=every_gpu,
    train={"fsdp": True},
)
