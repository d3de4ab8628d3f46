"""A hardware profile → the launch plan: device, processes and threads."""

from __future__ import annotations

from ftcli.core import hardware
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, Notes


def launch_plan(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """Device, processes and threads for this machine."""
    gpus = hardware.gpus()
    # A GPU asked for by name is planned for even where there is none; `train` refuses it here.
    device = "cuda" if wanted.type in ("gpu", "multi_gpu") or (wanted.type == "auto" and gpus) else "cpu"
    if wanted.type == "auto":
        notes.add("hardware.type", "gpu" if gpus else "cpu", "what this machine has")
    default = max(1, len(gpus)) if wanted.type == "multi_gpu" else 1
    num_processes = wanted.num_processes or notes.add("hardware.num_processes", default, "one process a GPU, else one")
    if wanted.num_threads is not None or device == "cuda":
        return LaunchPlan(num_processes=num_processes, device=device, num_threads=wanted.num_threads)
    threads = max(1, hardware.num_cores() // num_processes)
    notes.add("hardware.num_threads", threads, "this machine's cores over the processes; part of the bit-exact spec")
    return LaunchPlan(num_processes=num_processes, device=device, num_threads=threads)


def has_bfloat16(launch: LaunchPlan) -> bool:
    """Whether bfloat16 is the type to compute in: on GPUs that have it (or a GPU not at hand), never on CPU."""
    return launch.device == "cuda" and all(gpu.has_bfloat16 for gpu in hardware.gpus())
