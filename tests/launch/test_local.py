"""How a worker is started, and how its end is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from ftcli.launch import local
from ftcli.runs import rundir
from ftcli.runs.stop_signals import held_back
from ftcli.settings.run_spec import LaunchPlan
from tests.conftest import REPOSITORY


def test_no_library_reports_home_unless_the_environment_asks_for_it(monkeypatch):
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    environment = local.worker_environment(LaunchPlan())
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "1"
    said = "import huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    done = subprocess.run([sys.executable, "-c", said], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    assert local.worker_environment(LaunchPlan())["HF_HUB_DISABLE_TELEMETRY"] == "0"


def test_a_worker_keeps_its_heap_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    assert local.worker_environment(LaunchPlan())["MALLOC_MMAP_THRESHOLD_"] == "33554432"
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    assert local.worker_environment(LaunchPlan())["MALLOC_MMAP_THRESHOLD_"] == "131072"


def test_one_process_is_started_directly_and_several_through_accelerate():
    assert local.worker_command(LaunchPlan(), ["train", "RUN"], Path("RUN")) == [
        sys.executable,
        "-m",
        "ftcli.worker",
        "train",
        "RUN",
    ]
    several = local.worker_command(LaunchPlan(num_processes=2), ["train", "RUN"], Path("RUN"))
    assert several[1:5] == ["-m", "accelerate.commands.launch", "--config_file", "RUN/launcher.yaml"]


def test_accelerate_reads_the_run_s_own_file_whole(tmp_path):
    from accelerate.commands.config.config_args import load_config_from_file

    file = tmp_path / rundir.LAUNCHER
    file.write_text(local.launcher_config(LaunchPlan(num_processes=2)))
    read = load_config_from_file(str(file))
    assert (read.num_processes, read.num_machines, read.mixed_precision) == (2, 1, "no")
    assert {key for key in yaml.safe_load(file.read_text()) if not hasattr(read, key)} == set()


def test_a_launcher_s_variables_in_the_environment_reach_no_worker(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    said: list[str] = []
    environment = local.worker_environment(LaunchPlan(), said.append)
    assert not {"ACCELERATE_MIXED_PRECISION", "FSDP_OFFLOAD_PARAMS"} & environment.keys()
    assert "ACCELERATE_MIXED_PRECISION, FSDP_OFFLOAD_PARAMS" in said[0]


def test_a_signal_is_passed_on_as_it_is_and_a_second_one_ends_all_at_once(tmp_path):
    arrived = tmp_path / "arrived"
    program = (
        "import pathlib, sys, time\n"
        "from ftcli.runs import stop_signals\n"
        "def note(number, _): pathlib.Path(f'{sys.argv[1]}-{stop_signals.name_of(number)}').touch()\n"
        "with stop_signals.handled(note):\n"
        "    stop_signals.let_in()\n"
        "    time.sleep(600)\n"
    )
    said = []
    stop = local.Stop(said.append)
    with held_back():  # so that it is not ended by a signal that comes before it handles any
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(arrived)], cwd=REPOSITORY, start_new_session=True
        )
    try:
        with stop.forwarded(process):
            os.kill(os.getpid(), signal.SIGUSR1)
            until = time.monotonic() + 120
            while not Path(f"{arrived}-SIGUSR1").exists() and time.monotonic() < until:
                time.sleep(0.01)
            assert [each.name for each in tmp_path.iterdir()] == ["arrived-SIGUSR1"]
            assert not stop.at_once
            os.kill(os.getpid(), signal.SIGQUIT)
            assert process.wait(timeout=120) == -signal.SIGKILL
    finally:
        process.kill()
    assert stop.names == ["SIGUSR1", "SIGQUIT"]
    assert said[0].startswith("SIGUSR1: stopping")


def test_a_cpu_plan_hides_the_gpus_and_fixes_the_threads():
    environment = local.worker_environment(LaunchPlan(num_threads=3))
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["OMP_NUM_THREADS"] == "3"
