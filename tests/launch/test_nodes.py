"""Several machines: what the environment says of this one, and what its launcher is told."""

from __future__ import annotations

import inspect
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.launch import local
from ftcli.launch.nodes import ALONE, Node, first_host, joined, of_environment, this_node, without_node
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


def test_the_launcher_of_a_node_is_told_where_all_meet(tmp_path):
    from accelerate.commands.config.config_args import load_config_from_file

    plan = LaunchPlan(num_processes=8, num_nodes=2, max_restarts=3)
    node = Node(num_nodes=2, rank=1, endpoint="n0:29400")
    command = local.worker_command(plan, ["train", "RUN"], Path("RUN"), node)
    assert command[3:7] == ["--config_file", "RUN/launcher-1.yaml", "--max_restarts", "3"]
    assert local.worker_command(plan, ["train", "RUN"], Path("RUN"), replace(node, rank=0))[4] == "RUN/launcher.yaml"
    file = tmp_path / "launcher.yaml"
    file.write_text(local.launcher_config(plan, node))
    read = load_config_from_file(str(file))
    assert (read.num_machines, read.machine_rank, read.num_processes) == (2, 1, 8)
    assert (read.main_process_ip, read.main_process_port, read.rdzv_backend) == ("n0", 29400, "c10d")
    assert not {"rdzv_backend", "main_process_ip"} & yaml.safe_load(local.launcher_config(LaunchPlan(), ALONE)).keys()


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
    sharded = spec(tmp_path / "run", "hardware.node_type=fsdp_offload")
    assert sharded.train["fsdp_config"] == {"cpu_offload": True}


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
