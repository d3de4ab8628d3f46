"""A hardware profile → the launch plan: device, processes and threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ftcli.core import hardware
from ftcli.core.declarations import declarations
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, Notes


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One value of `hardware.type`, as a module of ftcli/launch/profiles declares it."""

    name: str
    summary: str
    """One line that says when to choose it."""
    plan: Callable[[HardwareSettings, Notes], LaunchPlan]
    """Settings → launch plan. It notes each derived value and does not require the hardware: `train` refuses what is
    missing, so a run for another machine can be planned here."""


def launch_plan(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """Device, processes and threads for this machine, by the profile of the settings."""
    profile: Profile = declarations("ftcli.launch.profiles", "PROFILE")[wanted.type]
    return profile.plan(wanted, notes)


def one_machine(wanted: HardwareSettings, notes: Notes, *, device: str, num_processes: int = 1) -> LaunchPlan:
    """The plan of processes that share this machine.

    Args:
        num_processes: used where the settings leave it open.
    """
    processes = wanted.num_processes or notes.add(
        "hardware.num_processes", num_processes, "one process per GPU, else one"
    )
    if wanted.num_threads is not None or device == "cuda":
        return LaunchPlan(num_processes=processes, device=device, gpu=wanted.gpu, num_threads=wanted.num_threads)
    threads = max(1, hardware.num_cores() // processes)
    notes.add("hardware.num_threads", threads, "CPU cores divided by processes; part of what makes results bit-exact")
    return LaunchPlan(num_processes=processes, device=device, num_threads=threads)


def has_bfloat16(launch: LaunchPlan) -> bool:
    """Whether to compute in bfloat16: on GPUs that support it (or are not on this machine), never on CPU."""
    return launch.device == "cuda" and all(gpu.has_bfloat16 for gpu in cards(launch))


def cards(launch: LaunchPlan) -> tuple[hardware.Gpu, ...]:
    """The GPUs that a launch plan computes on, as far as they are known; none on a CPU."""
    return hardware.planned(launch.gpu, launch.num_processes) if launch.device == "cuda" else ()
