"""One GPU, planned for also where there is none; `train` refuses it there."""

from __future__ import annotations

from ftcli.launch.profile import Profile, one_machine
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, Notes


def plan(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """A GPU, whether or not one is here."""
    return one_machine(wanted, notes, device="cuda")


PROFILE = Profile(name="gpu", summary="One GPU, in bfloat16 where it has it.", plan=plan)
