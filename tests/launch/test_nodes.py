"""Several machines: what the environment says of this one, and what its launcher is told."""

from __future__ import annotations

import argparse
import inspect
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.launcher.api import LaunchConfig
from torch.distributed.run import config_from_args, get_args_parser

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.launch import local
from ftcli.launch.nodes import (
    ALONE,
    LOCAL_ADDRESS,
    Node,
    first_host,
    joined,
    of_environment,
    own_address,
    this_node,
    without_node,
)
from ftcli.runs import rundir
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.run_spec import LaunchPlan, RunSpec

STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu3", "gpu3"),
        ("gpu3,gpu7", "gpu3"),
        ("gpu[03-06,9]", "gpu03"),
        ("gpu[9,12],login", "gpu9"),
        ("rack1-[2-3].cluster", "rack1-2.cluster"),
        ("", ""),
    ],
)
def test_the_first_host_of_slurm_s_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("environment", "node"),
    [
        ({}, Node()),
        (
            # 29400 + 4711 % 1000
            {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NODEID": "1"},
            Node(num_nodes=2, rank=1, endpoint="n1:30111"),
        ),
        (
            {"NNODES": "4", "NODE_RANK": "3", "MASTER_ADDR": "n0", "MASTER_PORT": "6000"},
            Node(num_nodes=4, rank=3, endpoint="n0:6000"),
        ),
        ({"NNODES": "4", "NODE_RANK": "0", "MASTER_ADDR": "n0"}, Node(num_nodes=4, rank=0, endpoint="n0:29400")),
        (
            {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_RDZV_ENDPOINT": "n0:1", "NNODES": "9"},
            Node(num_nodes=2, rank=1, endpoint="n0:1"),
        ),
        ({"NNODES": "1:4"}, Node()),  # a range is no number of machines to plan for
    ],
)
def test_a_node_is_read_from_the_variables_of_its_scheduler(environment, node):
    assert of_environment(environment) == node


def test_settings_go_before_the_environment_and_what_neither_says_is_asked_for():
    told = {"NNODES": "4", "NODE_RANK": "3", "MASTER_ADDR": "n0"}
    wanted = HardwareSettings(type="multi_node", node_rank=0, rendezvous="here:1")
    assert this_node(wanted, told) == Node(num_nodes=4, rank=0, endpoint="here:1")
    with pytest.raises(ConfigError) as refused:
        this_node(HardwareSettings(type="multi_node"), {})
    assert [problem.where for problem in refused.value.problems] == ["hardware.node_rank", "hardware.rendezvous"]


def as_launched(plan: LaunchPlan, node: Node, run: Path, monkeypatch) -> tuple[dict[str, Any], LaunchConfig]:
    """What accelerate reads from the command and the file of a node, and what it then asks of torch's launcher."""
    from accelerate.commands import launch

    command = local.worker_command(plan, ["train", str(run)], run, node)
    Path(command[4]).write_text(local.launcher_config(plan, node))
    asked: list[argparse.Namespace] = []
    for name, value in local.worker_environment(plan).items():
        monkeypatch.setenv(name, value)
    arguments = launch.launch_command_parser().parse_args(command[3:])
    arguments, *_ = launch._validate_launch_command(arguments)
    monkeypatch.setattr("torch.distributed.run.run", asked.append)
    launch.multi_gpu_launcher(arguments)
    config, *_ = config_from_args(asked[0])
    return vars(arguments), config


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("plan", [
    LaunchPlan(num_processes=8, num_nodes=2, max_restarts=3), LaunchPlan(num_processes=8, num_nodes=2),
    LaunchPlan(num_processes=2, max_restarts=1), LaunchPlan(num_processes=2),
])  # fmt: skip
def test_the_launcher_takes_each_line_of_its_file_and_all_meet_at_one_place(tmp_path, monkeypatch, plan, rank):
    node = Node(num_nodes=2, rank=rank, endpoint="n0:29400") if plan.num_nodes > 1 else ALONE
    read, config = as_launched(plan, node, tmp_path, monkeypatch)
    lines = yaml.safe_load((tmp_path / ("launcher-1.yaml" if node.rank else "launcher.yaml")).read_text())
    assert lines.pop("compute_environment")
    assert lines.pop("distributed_type") == "MULTI_GPU"
    assert read["multi_gpu"]
    assert {key: str(read[key]) for key in lines} == {key: str(value) for key, value in lines.items()}
    assert (config.nproc_per_node, config.max_restarts) == (plan.num_processes // plan.num_nodes, plan.max_restarts)
    assert config.min_nodes == config.max_nodes == plan.num_nodes
    if plan.num_nodes > 1 or plan.max_restarts:
        meet = node.endpoint or "127.0.0.1:0"
        assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", meet)
        assert config.rdzv_configs["is_host"] == str(int(node.rank == 0))
    else:
        assert (config.rdzv_backend, config.rdzv_endpoint) == ("static", f"127.0.0.1:{lines['main_process_port']}")


def test_the_other_nodes_are_told_an_address_that_they_reach(monkeypatch):
    assert own_address(ALONE, {}) == {}
    first = Node(num_nodes=2, rank=0, endpoint="n0:29400")
    assert own_address(first, {}) == {LOCAL_ADDRESS: "n0"}
    assert own_address(first, {LOCAL_ADDRESS: "ib0"}) == {}  # the user's own
    assert own_address(Node(num_nodes=2, rank=1, endpoint="127.0.0.1:29400"), {}) == {LOCAL_ADDRESS: "127.0.0.1"}
    assert own_address(Node(num_nodes=2, rank=1, endpoint="nowhere.invalid:29400"), {}) == {}
    monkeypatch.setenv(LOCAL_ADDRESS, "n1")
    assert get_args_parser().parse_args(["script"]).local_addr == "n1"


def test_processes_that_are_started_again_meet_in_a_store_of_their_own():
    assert local.worker_environment(LaunchPlan(num_processes=2, max_restarts=1))[STORE] == "1"
    assert STORE not in local.worker_environment(LaunchPlan(num_processes=2))
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    assert STORE in inspect.getsource(dynamic_rendezvous)  # what the installed torch reads


def spec(run: Path, *more: str) -> RunSpec:
    words = ("hardware=multi_node", "hardware.device=cpu", "hardware.num_nodes=2", f"run.dir={run}", *more)
    return spec_of(Request(overrides=words))


def test_a_plan_counts_the_processes_of_all_nodes(tmp_path):
    plan = spec(tmp_path / "run", "hardware.num_processes=3", "hardware.max_restarts=1").launch
    assert (plan.num_processes, plan.num_nodes, plan.processes_per_node, plan.max_restarts) == (6, 2, 3, 1)
    sharded = spec(tmp_path / "run", "hardware.node_type=fsdp")
    assert sharded.train["fsdp"] is True


def test_a_node_joins_the_run_that_the_first_creates_and_no_other(tmp_path):
    run = tmp_path / "run"
    first, second = (spec(run, f"hardware.node_rank={rank}") for rank in (0, 1))

    def create() -> None:
        time.sleep(0.5)
        local.prepare(first, ["train"])

    late = threading.Thread(target=create)
    late.start()
    stored = joined(second, run, seconds=60)
    late.join()
    assert stored == without_node(first) == RunSpec.load(run / rundir.SPEC)
    assert stored.hardware.node_rank is None  # else it would be that of every node that resumes
    with pytest.raises(ConfigError, match="learning_rate differ"):
        joined(spec(run, "hardware.node_rank=1", "train.learning_rate=1e-5"), run, seconds=60)
    with pytest.raises(ConfigError, match="has not created it within 0 seconds"):
        joined(second, tmp_path / "other", seconds=0)


@pytest.mark.parametrize(
    ("overrides", "place", "what"),
    [
        (["hardware=multi_node", "run.dir=r"], "multi_node.yaml", "nothing says how many"),
        (["hardware=multi_node", "hardware.num_nodes=2"], "run.dir", "write into one directory"),
        (["hardware=multi_node", "hardware.num_nodes=2", "run.dir=r", "hardware.node_type=gpu"],
            "hardware.node_type=gpu", "does not start a process on each GPU"),
        (["hardware=multi_node", "hardware.num_nodes=2", "run.dir=r", "hardware.node_rank=2"],
            "hardware.node_rank=2", "not one of 2 machines"),
        (["hardware=multi_node", "hardware.num_nodes=2", "run.dir=r", "hardware.rendezvous=host"],
            "hardware.rendezvous=host", "not HOST:PORT"),
        (["hardware=cpu", "hardware.num_nodes=2"], "hardware.num_nodes=2", "is none"),
        (["hardware=multi_gpu", "hardware.rendezvous=a:1"], "hardware.rendezvous=a:1", "is none"),
        (["hardware=cpu", "hardware.max_restarts=2"], "hardware.max_restarts=2", "this run has one"),
    ],
)  # fmt: skip
def test_what_fits_no_number_of_machines_is_refused(overrides, place, what, problems, monkeypatch):
    for name in ("SLURM_JOB_ID", "NNODES", "PET_NNODES"):
        monkeypatch.delenv(name, raising=False)
    [found] = problems(*overrides)
    assert place in found.splitlines()[0]
    assert what in found
