"""A Slurm job: the machines that it is given, one or several, each with the processes of another profile."""

from __future__ import annotations

from dataclasses import replace

from ftcli.launch.profile import Profile, node_profile
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, Notes


def plan(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """The processes of one node, times the number of nodes; none of it depends on the machine that submits the job."""
    nodes, each = wanted.num_nodes or 1, wanted.num_processes or 1
    if wanted.num_threads is None and wanted.device == "cpu":
        wanted = replace(wanted, num_threads=notes.add("hardware.num_threads", 1, "the cores of the job are not known"))
    launch = node_profile(wanted).plan(replace(wanted, num_processes=each), notes)
    return replace(launch, num_nodes=nodes, num_processes=each * nodes)


PROFILE = Profile(
    name="slurm",
    summary="A Slurm job, submitted from here; it saves before its time limit, is requeued, and goes on.",
    plan=plan,
    spans=True,
    submits=True,
)
