"""One GPU. It can be planned on a machine without one, where `train` refuses it."""

from __future__ import annotations

from ftcli.launch.profile import Profile, one_machine
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, Notes


def plan(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """A GPU, whether or not one is detected."""
    return one_machine(wanted, notes, device="cuda")


PROFILE = Profile(name="gpu", summary="One GPU, in bfloat16 where supported.", plan=plan)
