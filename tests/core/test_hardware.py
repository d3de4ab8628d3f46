"""What NVML knows is read as CUDA counts it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from ftcli.core import hardware, torch_build
from ftcli.core.gpu_cards import CARDS, card, rate_of
from ftcli.core.hardware import Gpu

GIB = 2**30


class Device:
    """A card, or a slice of one, as a fake NVML has it."""

    def __init__(self, uuid: str, total: float = 80, free: float = 80, slices: tuple[Device, ...] = ()) -> None:
        self.uuid, self.total, self.free, self.slices = uuid, total, free, slices
        self.of: Device | None = None
        for each in slices:
            each.of = self


def fake_nvml(*cards: Device) -> ModuleType:
    """NVML with these cards, by its own names, as far as the code under test calls them."""
    nvml = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def mig_mode(device: Device) -> list[int]:
        if device.of is not None:
            raise NVMLError
        return [int(bool(device.slices)), 0]

    def slice_at(device: Device, index: int) -> Device:
        if index >= len(device.slices):
            raise NVMLError
        return device.slices[index]

    def card_of(device: Device) -> Device:
        if device.of is None:
            raise NVMLError
        return device.of

    def capability(device: Device) -> tuple[int, int]:
        if device.of is not None:
            raise NVMLError  # NVML answers this for whole cards only
        return (8, 0)

    vars(nvml).update(
        NVMLError=NVMLError,
        NVML_DEVICE_MIG_ENABLE=1,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=lambda index: cards[index],
        nvmlDeviceGetUUID=lambda device: device.uuid.encode(),
        nvmlDeviceGetName=lambda device: b"A100",
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(total=device.total * GIB, free=device.free * GIB),
        nvmlDeviceGetMigMode=mig_mode,
        nvmlDeviceGetMaxMigDeviceCount=lambda device: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=slice_at,
        nvmlDeviceGetDeviceHandleFromMigDeviceHandle=card_of,
        nvmlDeviceGetCudaComputeCapability=capability,
        nvmlSystemGetCudaDriverVersion=lambda: 12040,
    )
    return nvml


@pytest.fixture
def machine(monkeypatch):
    """Makes this machine one with these cards, and CUDA_VISIBLE_DEVICES what is given."""

    def make(*cards: Device, visible: str | None = None) -> tuple[Gpu, ...]:
        monkeypatch.setattr(hardware, "has_driver", lambda: True)
        monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(*cards))
        monkeypatch.delenv(hardware.VISIBLE, raising=False)
        if visible is not None:
            monkeypatch.setenv(hardware.VISIBLE, visible)
        hardware.gpus.cache_clear()
        hardware.driver_cuda.cache_clear()
        return hardware.gpus()

    yield make
    hardware.gpus.cache_clear()
    hardware.driver_cuda.cache_clear()


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, "ab"),
        ("", ""),
        ("  ", ""),
        ("0", "a"),
        ("1,0", "ba"),
        ("0,1,2", "ab"),  # CUDA stops at the first number that is no device
        ("2,0", ""),
        ("0,", "a"),
        ("0,-1,1", "a"),
        ("-1", ""),
        ("NoDevFiles", ""),
        (" 1 , 0 ", "ba"),
        ("+1", "b"),
        ("0,0", ""),  # twice the same is none at all
        ("1gpu", "b"),  # as strtoul reads it
        ("GPU-b", "b"),  # the beginning of a UUID is enough where it is the only one
        ("GPU-bbb,GPU-aaa", "ba"),
        ("GPU-a,1", "a"),
        ("GPU-", ""),  # which one is not said
        ("GPU-c", ""),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(machine, visible, seen):
    found = machine(Device("GPU-aaa"), Device("GPU-bbb"), visible=visible)
    assert "".join(gpu.uuid[4] for gpu in found) == seen


def test_of_a_partitioned_card_the_slice_counts_not_the_card(machine):
    slices = (Device("MIG-x", total=10, free=9), Device("MIG-y", total=20, free=20))
    card = Device("GPU-aaa", slices=slices)
    assert [(gpu.uuid, gpu.memory_gib, gpu.capability) for gpu in machine(card)] == [("MIG-x", 10, (8, 0))]
    assert [gpu.uuid for gpu in machine(card, visible="0")] == ["MIG-x"]
    assert [gpu.memory_gib for gpu in machine(card, visible="MIG-y")] == [20]
    assert [gpu.uuid for gpu in machine(card, visible="MIG-y,MIG-x")] == ["MIG-y"]  # CUDA counts one slice
    assert [gpu.uuid for gpu in machine(Device("GPU-bbb"), card)] == ["GPU-bbb"]


def test_a_single_process_takes_the_first_card_unless_another_has_more_room(machine):
    machine(Device("GPU-aaa", free=75), Device("GPU-bbb", free=80))
    assert hardware.planned(None, 1)[0].uuid == "GPU-aaa"
    machine(Device("GPU-aaa", free=30), Device("GPU-bbb", free=80))
    assert hardware.planned(None, 1)[0].uuid == "GPU-bbb"
    assert [gpu.uuid for gpu in hardware.planned(None, 2)] == ["GPU-aaa", "GPU-bbb"]


def test_a_card_that_is_not_here_can_be_planned_for(machine):
    machine()
    assert hardware.planned("h100", 8) == (Gpu("h100", 79.6, (9, 0), 79.6),) * 8
    assert hardware.planned("24GiB", 1)[0].memory_gib == 24
    assert not hardware.planned("t4", 1)[0].has_bfloat16


def test_a_card_is_known_by_its_name_its_driver_s_name_or_its_size():
    names = {
        "Tesla T4": "t4",
        "NVIDIA A10": "a10",
        "NVIDIA A10G": "a10g",
        "NVIDIA L4": "l4",
        "NVIDIA L40S": "l40s",
        "NVIDIA A100-SXM4-40GB": "a100-40",
        "NVIDIA A100 80GB PCIe": "a100-80",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H200": "h200",
        "NVIDIA GeForce RTX 4090": "rtx4090",
        "NVIDIA RTX A6000": "a6000",
        "NVIDIA RTX 6000 Ada Generation": "rtx6000ada",
        "Tesla V100-SXM2-32GB": "v100-32",
    }
    assert {name: rate_of(name) for name in names} == {name: CARDS[ours].teraflops for name, ours in names.items()}
    assert rate_of("Some New Card") == 0
    assert card("16 GB") == card("16GiB")
    assert card("t5") is card("24") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "a build for the CPU"),
        (
            "cuda: Optional[str] = '13.0'\n",
            "the driver runs CUDA 12.4, and the installed torch was built for CUDA 13.0",
        ),
        ("cuda: Optional[str] = '12.8'\n", None),  # a newer minor version runs on an older driver of the same major one
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.2'\n", None),
    ],
)
def test_a_torch_that_cannot_use_the_card_is_named(machine, monkeypatch, text, why):
    machine(Device("GPU-aaa"))
    monkeypatch.setattr(torch_build, "version_text", lambda: text)
    torch_build.built_for.cache_clear()
    found = torch_build.why_no_gpu()
    torch_build.built_for.cache_clear()
    assert (found is None) if why is None else (found is not None and why in found[0] and bool(found[1]))


@pytest.mark.parametrize(
    ("text", "multiplies"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 gfni\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx512f avx512_vnni\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", None),
        (None, None),
    ],
)
def test_a_cpu_says_whether_it_multiplies_in_bfloat16(text, multiplies, tmp_path, monkeypatch):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    monkeypatch.setattr(hardware, "CPU_FILE", tmp_path / "cpuinfo")
    assert hardware.cpu_multiplies_bfloat16.__wrapped__() is multiplies
