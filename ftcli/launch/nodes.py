"""Several machines of one run: how many there are, which of them this is, and where they meet.

Each machine (node) starts the same command; torch's elastic launcher, through accelerate, joins their processes at the
rendezvous. What is not set is read from the environment: variables of Slurm, or those that torchrun takes.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.runs import rundir
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import RunSpec

PORT = 29400
"""Where the nodes meet if no port is given: torchrun's own."""
OWN = ("node_rank", "rendezvous")
"""Settings of `hardware` that say where a node is, and nothing of what is trained."""
WAIT_SECONDS = 600.0
"""How long a node waits for the first one to create the run directory."""
LOCAL_ADDRESS = "PET_LOCAL_ADDR"
"""torchrun's variable for the address of a node."""
_PORTS = 1000
"""Slurm jobs that share a machine meet at ports of their own, from PORT on, by the number of the job."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine among those of a run; None is unknown."""

    num_nodes: int | None = None
    rank: int | None = None
    """0 is the node that creates the run directory, and where all meet."""
    endpoint: str | None = None
    """HOST:PORT of the rendezvous."""


ALONE = Node(num_nodes=1, rank=0)
"""The one machine of a run."""


def of_environment(environment: Mapping[str, str]) -> Node:
    """What Slurm's variables, or those of torchrun, say of this node."""
    if environment.get("SLURM_JOB_ID") and environment.get("SLURM_JOB_NUM_NODES"):
        return _of_slurm(environment)
    # torchrun reads each of its options from PET_OPTION; the plain names are what most schedulers set.
    named = {
        name: environment.get(f"PET_{name}") or environment.get(name)
        for name in ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "RDZV_ENDPOINT")
    }
    host, endpoint = named["MASTER_ADDR"], named["RDZV_ENDPOINT"]
    if endpoint is None and host is not None:
        endpoint = f"{host}:{named['MASTER_PORT'] or PORT}"
    # torchrun's NNODES may be a range, MIN:MAX; a plan needs one number.
    return Node(num_nodes=_number(named["NNODES"]), rank=_number(named["NODE_RANK"]), endpoint=endpoint)


def _of_slurm(environment: Mapping[str, str]) -> Node:
    port = PORT + int(environment["SLURM_JOB_ID"]) % _PORTS
    host = first_host(environment.get("SLURM_JOB_NODELIST", ""))
    return Node(
        num_nodes=_number(environment["SLURM_JOB_NUM_NODES"]),
        rank=_number(environment.get("SLURM_NODEID")),
        endpoint=f"{host}:{port}" if host else None,
    )


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: `gpu[03-06,9],login` begins with gpu03."""
    found = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else ""


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def this_node(wanted: HardwareSettings, environment: Mapping[str, str]) -> Node:
    """This node, by the settings and else the environment.

    Raises:
        ConfigError: neither says which node this is, or where they meet.
    """
    known = of_environment(environment)
    rank = wanted.node_rank if wanted.node_rank is not None else known.rank
    endpoint = wanted.rendezvous or known.endpoint
    problems = []
    if rank is None:
        fix = "set hardware.node_rank=0 on the first node, 1 on the second, …"
        problems.append(Problem("hardware.node_rank", "nothing says which of the nodes this is", fix))
    if endpoint is None:
        fix = "set hardware.rendezvous=HOST:PORT, a port of the first node that all can reach"
        problems.append(Problem("hardware.rendezvous", "nothing says where the nodes meet", fix))
    if problems:
        raise ConfigError(*problems)
    return Node(num_nodes=wanted.num_nodes or known.num_nodes, rank=rank, endpoint=endpoint)


def own_address(node: Node, environment: Mapping[str, str]) -> dict[str, str]:
    """The variable that tells torch's launcher where the other nodes reach this one; empty where the user set it.

    By itself it would tell them a host name that need not be known to them.
    """
    if not node.endpoint or LOCAL_ADDRESS in environment:
        return {}
    host, _, port = node.endpoint.rpartition(":")
    if node.rank == 0:  # all nodes reach it there
        return {LOCAL_ADDRESS: host}
    import socket

    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))  # a datagram socket sends nothing by that; it learns its own address
        return {LOCAL_ADDRESS: probe.getsockname()[0]}
    return {}


def node_of(spec: RunSpec) -> Node:
    """This node among those of a run.

    Raises:
        ConfigError: nothing says which node this is, or where they meet.
    """
    return this_node(spec.hardware, os.environ) if spec.launch.num_nodes > 1 else ALONE


def without_node(spec: RunSpec) -> RunSpec:
    """The spec as all nodes share it."""
    tree = dict(spec.tree)
    if "hardware" in tree:
        tree["hardware"] = {key: value for key, value in tree["hardware"].items() if key != "node_rank"}
    return replace(spec, hardware=replace(spec.hardware, node_rank=None), tree=tree)


def joined(spec: RunSpec, run: Path, seconds: float = WAIT_SECONDS) -> RunSpec:
    """The spec that the first node wrote into the run directory, once it is there.

    Raises:
        ConfigError: it does not come, or is of another run.
    """
    until = time.monotonic() + seconds
    while not (run / rundir.SPEC).is_file():
        if time.monotonic() > until:
            what = f"the first node has not created it within {seconds:.0f} seconds"
            raise ConfigError(Problem(f"run.dir={run}", what, "start node 0, in a folder that all nodes share"))
        time.sleep(0.2)
    stored = RunSpec.load(run / rundir.SPEC)
    if odd := _differing(without_node(spec).tree, stored.tree):
        what = f"the first node trains something else: {', '.join(odd)} differ"
        raise ConfigError(Problem(str(run / rundir.SPEC), what, "start the same command on every node"))
    return stored


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any], at: str = "") -> list[str]:
    """The settings that two trees have otherwise."""
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            found += _differing(mine, other, f"{at}{key}.")
        elif mine != other:
            found.append(f"{at}{key}")
    return found
