"""A hardware profile → the launch plan: device, processes and threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ftcli.core import hardware
from ftcli.core.declarations import declaration, declarations
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, Notes

PROCESSES_ON_CPU = 2
"""Of a profile for several GPUs, where `hardware.device=cpu`."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One value of `hardware.type`, as a module of ftcli/launch/profiles declares it."""

    name: str
    summary: str
    """One line that says when to choose it."""
    plan: Callable[[HardwareSettings, Notes], LaunchPlan]
    """Settings → launch plan. It notes each derived value and does not require the hardware: `train` refuses what is
    missing, so a run for another machine can be planned here."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `train` that it brings: how the model is sharded over the processes. {} keeps a copy in each."""
    spans: bool = False
    """Whether it spans machines, on each of which `hardware.node_type` says what is started."""
    submits: bool = False
    """Whether `train` gives the run to a scheduler, and does not start it."""


def profile_of(wanted: HardwareSettings) -> Profile:
    """The profile that the settings name."""
    return _declared(wanted.type)


def submits(wanted: HardwareSettings, environment: Mapping[str, str]) -> bool:
    """Whether a run is to be given to a scheduler, and this is not yet its job but somebody at a login node."""
    return profile_of(wanted).submits and not in_job(environment)


def in_job(environment: Mapping[str, str]) -> bool:
    """Whether this is a job of a scheduler already."""
    return bool(environment.get("SLURM_JOB_ID"))


def node_profile(wanted: HardwareSettings) -> Profile:
    """The profile of one machine: the named one, or where that spans machines the one for each."""
    profile = profile_of(wanted)
    if not profile.spans:
        return profile
    each = _declared(wanted.node_type)
    return each if each.plan is every_gpu else _declared("multi_gpu")  # which a check reports


def for_each_node() -> list[str]:
    """The profiles that `hardware.node_type` may name."""
    found = declarations("ftcli.launch.profiles", "PROFILE")
    return [name for name, profile in found.items() if profile.plan is every_gpu]


def _declared(name: str) -> Profile:
    profile: Profile = declaration("ftcli.launch.profiles", name, "PROFILE")
    return profile


def launch_plan(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """Device, processes and threads for this machine, by the profile of the settings."""
    plan = profile_of(wanted).plan(wanted, notes)
    return replace(plan, max_restarts=wanted.max_restarts)


def has_several(wanted: HardwareSettings) -> bool:
    """Whether the profile of the settings takes every GPU of a machine."""
    return node_profile(wanted).plan is every_gpu


def every_gpu(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """One process per detected GPU, or one where there is none; on the CPU where the settings say so."""
    if wanted.device == "cpu":
        return one_machine(wanted, notes, device="cpu", num_processes=PROCESSES_ON_CPU)
    return one_machine(wanted, notes, device="cuda", num_processes=max(1, len(hardware.gpus())))


def one_machine(wanted: HardwareSettings, notes: Notes, *, device: str, num_processes: int = 1) -> LaunchPlan:
    """The plan of processes that share this machine.

    Args:
        num_processes: used where the settings leave it open.
    """
    why = "hardware.device=cpu" if wanted.device == "cpu" else "one process per GPU, else one"
    processes = wanted.num_processes or notes.add("hardware.num_processes", num_processes, why)
    if wanted.num_threads is not None or device == "cuda":
        return LaunchPlan(num_processes=processes, device=device, gpu=wanted.gpu, num_threads=wanted.num_threads)
    threads = max(1, hardware.num_cores() // processes)
    notes.add("hardware.num_threads", threads, "CPU cores divided by processes; part of what makes results bit-exact")
    return LaunchPlan(num_processes=processes, device=device, num_threads=threads)


def has_bfloat16(launch: LaunchPlan) -> bool:
    """Whether to compute in bfloat16: on GPUs that support it (or are not on this machine), never on CPU."""
    return launch.device == "cuda" and all(gpu.has_bfloat16 for gpu in cards(launch))


def cards(launch: LaunchPlan) -> tuple[hardware.Gpu, ...]:
    """The GPUs that a launch plan computes on, on one machine, as far as they are known; none on a CPU."""
    return hardware.planned(launch.gpu, launch.processes_per_node) if launch.device == "cuda" else ()
