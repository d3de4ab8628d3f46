"""All GPUs of the machine, one process each with a copy of the model (DDP), started through accelerate launch."""

from __future__ import annotations

from ftcli.launch.profile import Profile, every_gpu

PROFILE = Profile(
    name="multi_gpu",
    summary="Several GPUs: one process each with a whole copy of the model, started through accelerate launch.",
    plan=every_gpu,
)
