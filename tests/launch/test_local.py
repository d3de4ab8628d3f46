"""How a worker is started, and how its end is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ftcli.launch import local
from ftcli.runs import rundir
from ftcli.settings.run_spec import LaunchPlan


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


def test_one_process_is_started_directly_and_several_through_accelerate():
    assert local.worker_command(LaunchPlan(), ["train", "RUN"]) == [
        sys.executable,
        "-m",
        "ftcli.worker",
        "train",
        "RUN",
    ]
    several = local.worker_command(LaunchPlan(num_processes=2), ["train", "RUN"])
    assert several[1:3] == ["-m", "accelerate.commands.launch"]
    assert several[several.index("--num_processes") + 1] == "2"


def test_a_cpu_plan_hides_the_gpus_and_fixes_the_threads():
    environment = local.worker_environment(LaunchPlan(num_threads=3))
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("code", "own", "exit_code", "words"),
    [
        (0, None, 0, ""),
        (2, None, 2, ""),
        (3, None, 3, ""),
        (75, None, 75, "--resume"),
        (1, "75", 75, "--resume"),  # torchrun answers 1 for every cause; the rank's own word counts
        (1, "3", 3, ""),
        (1, None, 1, "command.sh"),
        (-9, None, 75, "out of memory?"),
        (137, None, 75, "SIGKILL"),
    ],
)
def test_the_end_of_a_worker_is_told_by_its_own_word(code, own, exit_code, words, tmp_path):
    if own is not None:
        (tmp_path / rundir.EXIT_CODE).write_text(own)
    said: list[str] = []
    assert local.worker_exit_code(tmp_path, code, 2, said.append) == exit_code
    assert words in " ".join(said)
    assert bool(said) is bool(words)
