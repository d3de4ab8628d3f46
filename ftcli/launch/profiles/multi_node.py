"""Several machines, each with the processes that another profile starts on one; they meet at a rendezvous."""

from __future__ import annotations

import os
from dataclasses import replace

from ftcli.launch.nodes import of_environment
from ftcli.launch.profile import Profile, node_profile
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, Notes


def plan(wanted: HardwareSettings, notes: Notes) -> LaunchPlan:
    """The processes of one node, times the number of nodes."""
    each = node_profile(wanted).plan(wanted, notes)
    nodes = wanted.num_nodes
    if nodes is None:
        nodes = notes.add(
            "hardware.num_nodes", of_environment(os.environ).num_nodes or 1, "the environment's variables"
        )
    return replace(each, num_nodes=nodes, num_processes=each.num_processes * nodes)


PROFILE = Profile(
    name="multi_node",
    summary="Several machines that share a run directory; each starts the same command with hardware.node_rank.",
    plan=plan,
    spans=True,
)
