"""A process of its own sees one device, whatever the machine has."""

from __future__ import annotations

import pytest

from ftcli.core import hardware
from ftcli.core.hardware import Gpu
from ftcli.launch import local
from ftcli.launch.devices import one_device
from ftcli.settings.run_spec import LaunchPlan

FULL = Gpu("A100", 80.0, (8, 0), 12.0, "GPU-full")
EMPTY = Gpu("A100", 80.0, (8, 0), 79.0, "GPU-empty")


@pytest.mark.parametrize(
    ("cards", "visible", "shown", "note"),
    [
        ((EMPTY,), None, "GPU-empty", ""),
        ((EMPTY, FULL), None, "GPU-empty", "GPU 0 of 2 is used, the first"),
        ((FULL, EMPTY), None, "GPU-empty", "GPU 1 of 2 is used, the one with most free memory (79.0 of 80.0 GiB free)"),
        ((), None, "0", ""),  # NVML tells nothing: the first, if there is one
        ((), "3,2", "3", ""),
        ((), "", None, ""),  # none is to be used
    ],
)
def test_one_process_is_shown_one_device(monkeypatch, cards, visible, shown, note):
    monkeypatch.setattr(hardware, "gpus", lambda: cards)
    variables, said = one_device({} if visible is None else {hardware.VISIBLE: visible})
    assert variables.get(hardware.VISIBLE) == shown
    assert said.startswith(note)
    assert bool(said) is bool(note)


def test_every_worker_of_one_process_is_shown_one_device_and_several_see_all(monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: (FULL, EMPTY))
    monkeypatch.delenv(hardware.VISIBLE, raising=False)
    monkeypatch.delenv(hardware.ORDER, raising=False)
    said: list[str] = []
    one = local.worker_environment(LaunchPlan(device="cuda"), said.append)
    assert one[hardware.VISIBLE] == local.worker_environment()[hardware.VISIBLE] == "GPU-empty"
    assert "hardware=multi_gpu" in said[0]
    several = local.worker_environment(LaunchPlan(device="cuda", num_processes=2))
    assert hardware.VISIBLE not in several
    assert one[hardware.ORDER] == several[hardware.ORDER] == "PCI_BUS_ID"  # as NVML counts
