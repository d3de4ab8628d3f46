"""What the machine has: one GPU when there is one, else the CPU."""

from __future__ import annotations

from ftcli.core import hardware
from ftcli.launch.profile import Profile, one_machine
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, Notes


def plan(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """A GPU that is here, or the CPU, with a note that says which."""
    gpus = hardware.gpus()
    notes.add("hardware.type", "gpu" if gpus else "cpu", "what this machine has")
    return one_machine(wanted, notes, device="cuda" if gpus else "cpu")


PROFILE = Profile(name="auto", summary="One GPU when there is one, else the CPU.", plan=plan)
