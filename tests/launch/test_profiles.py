"""Hardware profiles: a file each, and the plan that each makes."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from ftcli.core import assets, hardware
from ftcli.core.declarations import declarations, names_in
from ftcli.core.hardware import Gpu
from ftcli.core.strict_yaml import load
from ftcli.launch.profile import launch_plan
from ftcli.settings.groups import HardwareSettings
from ftcli.settings.library_fields import fields_of, options
from ftcli.settings.run_spec import LaunchPlan, Notes
from tests.conftest import REPOSITORY

PACKAGE = "ftcli.launch.profiles"
A100 = Gpu("A100", 80.0, (8, 0))


def planned(monkeypatch, num_gpus: int, **settings) -> tuple[LaunchPlan, dict[str, object]]:
    monkeypatch.setattr(hardware, "gpus", lambda: (A100,) * num_gpus)
    monkeypatch.setattr(hardware, "num_cores", lambda: 12)
    notes = Notes()
    plan = launch_plan(HardwareSettings(**settings), notes)
    return plan, {note.key: note.value for note in notes.found}


def test_folder_field_and_group_files_name_the_same_profiles():
    declared = declarations(PACKAGE, "PROFILE")
    assert tuple(declared) == names_in(PACKAGE) == options(fields_of("ftcli.settings.groups:HardwareSettings")["type"])
    assert [profile.name for profile in declared.values()] == [*declared]
    types = {name: load(path).data["type"] for name, path in assets.choices("hardware").items()}
    assert set(types.values()) <= declared.keys()
    # a choice with a profile's name is that profile
    assert {name: kind for name, kind in types.items() if name in declared} == {name: name for name in declared}


@pytest.mark.parametrize(
    ("settings", "num_gpus", "plan", "noted"),
    [
        ({"type": "auto"}, 0, (1, "cpu", 12), {"hardware.type": "cpu", "hardware.num_processes": 1}),
        ({"type": "auto"}, 2, (1, "cuda", None), {"hardware.type": "gpu", "hardware.num_processes": 1}),
        ({"type": "cpu"}, 2, (1, "cpu", 12), {"hardware.num_processes": 1}),
        ({"type": "cpu", "num_processes": 5}, 0, (5, "cpu", 2), {}),  # 12 // 5 cores each
        ({"type": "cpu", "num_processes": 2, "num_threads": 3}, 0, (2, "cpu", 3), {}),
        ({"type": "gpu"}, 0, (1, "cuda", None), {"hardware.num_processes": 1}),
        ({"type": "multi_gpu"}, 4, (4, "cuda", None), {"hardware.num_processes": 4}),
        ({"type": "multi_gpu"}, 0, (1, "cuda", None), {"hardware.num_processes": 1}),
        ({"type": "multi_gpu", "num_processes": 8}, 4, (8, "cuda", None), {}),
        ({"type": "fsdp"}, 4, (4, "cuda", None), {"hardware.num_processes": 4}),
        ({"type": "zero3_offload"}, 8, (8, "cuda", None), {"hardware.num_processes": 8}),
        # on CPU processes: two, whatever GPUs there are
        ({"type": "multi_gpu", "device": "cpu"}, 4, (2, "cpu", 6), {"hardware.num_processes": 2}),
        ({"type": "zero2", "device": "cpu", "num_processes": 3}, 0, (3, "cpu", 4), {}),
        ({"type": "auto", "device": "cpu"}, 2, (1, "cpu", 12), {"hardware.type": "cpu", "hardware.num_processes": 1}),
    ],
)
def test_a_profile_plans_what_is_asked_and_notes_what_is_not(monkeypatch, settings, num_gpus, plan, noted):
    found, notes = planned(monkeypatch, num_gpus, **settings)
    assert (found.num_processes, found.device, found.num_threads) == plan
    if plan[1] == "cpu" and "num_threads" not in settings:
        noted = {**noted, "hardware.num_threads": plan[2]}
    assert notes == noted


def test_a_profile_is_one_file_and_at_most_one_group_file(tmp_path):
    for name in ("ftcli", "configs", "recipes"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "ftcli" / "launch" / "profiles" / "pair.py").write_text(
        "from ftcli.launch.profile import Profile, one_machine\n"
        "def plan(wanted, notes):\n"
        "    return one_machine(wanted, notes, device='cpu', num_processes=2)\n"
        "PROFILE = Profile(name='pair', summary='Two processes on the CPU.', plan=plan)\n",
        "utf-8",
    )
    (tmp_path / "configs" / "hardware" / "pair.yaml").write_text("# Two processes on the CPU.\ntype: pair\n", "utf-8")

    def ftcli(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
        command = [sys.executable, "-m", "ftcli", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    shown = ftcli("show", "hardware=pair")
    assert shown.returncode == 0, shown.stderr
    assert "hardware.num_processes" in shown.stdout
    mistyped = ftcli("check", "hardware.type=piar")
    assert mistyped.returncode == 2
    assert "did you mean hardware.type=pair?" in mistyped.stderr + mistyped.stdout
