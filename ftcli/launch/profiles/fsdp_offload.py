"""FSDP2 with weights, gradients and optimiser state in the host's memory."""

from __future__ import annotations

from ftcli.launch.profile import Profile, every_gpu

PROFILE = Profile(
    name="fsdp_offload",
    summary="FSDP2 with the shards in the host's memory: slower, for a model that all GPUs together cannot hold.",
    plan=every_gpu,
    train={"fsdp": True, "fsdp_config": {"cpu_offload": True}},
)
