"""The detected hardware: one GPU where there is one, else the CPU."""

from __future__ import annotations

from ftcli.core import hardware
from ftcli.launch.profile import Profile, one_machine
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, Notes


def plan(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """A GPU of this machine, else the CPU, with a note of the choice."""
    gpus = wanted.device != "cpu" and bool(wanted.gpu or hardware.gpus())
    why = f"hardware.gpu={wanted.gpu}" if gpus and wanted.gpu else "detected hardware"
    why = "hardware.device=cpu" if wanted.device == "cpu" else why
    notes.add("hardware.type", "gpu" if gpus else "cpu", why)
    return one_machine(wanted, notes, device="cuda" if gpus else "cpu")


PROFILE = Profile(name="auto", summary="One GPU where there is one, else the CPU.", plan=plan)
