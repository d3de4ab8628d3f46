"""All GPUs of the machine, one process each, started through accelerate launch."""

from __future__ import annotations

from ftcli.core import hardware
from ftcli.launch.profile import Profile, one_machine
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, Notes


def plan(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """One process per detected GPU, or one where there is none."""
    return one_machine(wanted, notes, device="cuda", num_processes=max(1, len(hardware.gpus())))


PROFILE = Profile(
    name="multi_gpu", summary="Several GPUs: one process each, started through accelerate launch.", plan=plan
)
