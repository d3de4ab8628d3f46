"""The CPU; several processes communicate through gloo."""

from __future__ import annotations

from ftcli.launch.profile import Profile, one_machine
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, Notes


def plan(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """The CPU, whatever hardware is detected."""
    return one_machine(wanted, notes, device="cpu")


PROFILE = Profile(
    name="cpu", summary="The CPU, in float32; with hardware.num_processes several gloo processes.", plan=plan
)
