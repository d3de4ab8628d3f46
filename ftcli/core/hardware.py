"""The detected hardware, without torch: GPUs through NVML as CUDA would count them, cores through the affinity."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ftcli.core.gpu_cards import card

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
BY_BUS = "PCI_BUS_ID"
"""The order in which NVML counts. CUDA's own is by speed, so a worker is started with this one."""
CPU_FILE = Path("/proc/cpuinfo")
"""Where Linux tells what a CPU can do."""
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True)
class Gpu:
    """One visible GPU, or one visible slice of it; memory in GiB."""

    name: str
    memory_gib: float
    capability: tuple[int, int]
    free_gib: float = 0.0
    uuid: str = ""
    """The name by which CUDA_VISIBLE_DEVICES selects it, whatever the order of the devices."""

    @property
    def has_bfloat16(self) -> bool:
        """Whether it computes in bfloat16 (Ampere, compute capability 8.0, and later)."""
        return self.capability >= (8, 0)


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that a process started here would see, as CUDA_VISIBLE_DEVICES allows; none without a driver."""
    visible = os.environ.get(VISIBLE)
    if visible is not None and not visible.strip():
        return ()
    with _nvml() as nvml:
        if nvml is None:
            return ()
        try:
            cards = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
            return tuple(_describe(nvml, handle) for handle in _selected(nvml, cards, visible))
        except nvml.NVMLError:
            return ()


def roomiest(cards: Sequence[Gpu]) -> Gpu:
    """The card for a single process: the first, unless another has a tenth more free memory."""
    return next(card for card in cards if card.free_gib >= max(other.free_gib for other in cards) / 1.1)


def planned(name: str | None, num_processes: int) -> tuple[Gpu, ...]:
    """The GPUs that so many processes are planned for: the named ones, else the visible ones.

    One process uses the roomiest; of several each uses one.
    """
    named = card(name) if name is not None else None
    if name is not None and named is not None:
        return (Gpu(name, named.memory_gib, named.capability, named.memory_gib),) * num_processes
    cards = gpus()
    return (roomiest(cards),) if cards and num_processes == 1 else cards[:num_processes]


@cache
def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver runs; None without a driver."""
    with _nvml() as nvml:
        if nvml is None:
            return None
        try:
            found = int(nvml.nvmlSystemGetCudaDriverVersion())
        except nvml.NVMLError:
            return None
    return found // 1000, found % 1000 // 10


@cache
def driver_version() -> str | None:
    """The version of the driver; None without one."""
    with _nvml() as nvml:
        if nvml is None:
            return None
        try:
            return _text(nvml.nvmlSystemGetDriverVersion())
        except nvml.NVMLError:
            return None


@contextlib.contextmanager
def _nvml() -> Any:
    """NVML while it is initialised; None without a driver or without its package."""
    if not has_driver():
        yield None
        return
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def has_driver() -> bool:
    """Whether NVML's library can be loaded. Checked first, since pynvml is slow to import and useless without it."""
    if not sys.platform.startswith("linux"):
        return True
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _selected(nvml: Any, cards: list[Any], visible: str | None) -> list[Any]:
    """The handles that CUDA_VISIBLE_DEVICES selects, in its order, of whole cards or of slices.

    CUDA reads the list up to the first entry that names no device; an entry that stands twice makes it empty. It counts
    at most one slice of a card that is partitioned (MIG), and by number only the first.
    """
    if visible is None:
        return _counted(nvml, cards)
    if visible.startswith(("GPU-", "MIG-")):
        slices = [part for card in cards for part in _slices(nvml, card)]
        known = {_text(nvml.nvmlDeviceGetUUID(handle)): handle for handle in (*cards, *slices)}
        found: list[str] = []
        for entry in visible.split(","):
            near = [uuid for uuid in known if entry.strip() and uuid.startswith(entry.strip())]
            if len(near) != 1:
                break
            found += near
        chosen = [known[uuid] for uuid in found] if len(set(found)) == len(found) else []
        return chosen[:1] if visible.startswith("MIG-") else _counted(nvml, chosen)
    numbers: list[int] = []
    for entry in visible.split(","):
        begins = re.match(r"\s*\+?(\d+)", entry)
        if begins is None or int(begins[1]) >= len(cards):
            break
        numbers.append(int(begins[1]))
    return _counted(nvml, [cards[number] for number in numbers]) if len(set(numbers)) == len(numbers) else []


def _counted(nvml: Any, handles: list[Any]) -> list[Any]:
    """What CUDA counts of these cards: of a partitioned first one its first slice alone, else the whole ones."""
    if handles and (slices := _slices(nvml, handles[0])):
        return slices[:1]
    return [handle for handle in handles if not _slices(nvml, handle)]


def _slices(nvml: Any, card: Any) -> list[Any]:
    """The slices of a partitioned card; none of a whole one, or of a slice."""
    try:
        if nvml.nvmlDeviceGetMigMode(card)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return []
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(card)
    except nvml.NVMLError:  # an older card, or a slice
        return []
    found = []
    for index in range(count):
        with contextlib.suppress(nvml.NVMLError):  # places that hold no slice
            found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index))
    return found


def _describe(nvml: Any, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    card = handle
    with contextlib.suppress(nvml.NVMLError):  # only a slice has a card that it belongs to
        card = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    return Gpu(
        _text(nvml.nvmlDeviceGetName(handle)),
        memory.total / 2**30,
        tuple(nvml.nvmlDeviceGetCudaComputeCapability(card)),
        memory.free / 2**30,
        _text(nvml.nvmlDeviceGetUUID(handle)),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def num_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu_multiplies_bfloat16() -> bool | None:
    """Whether the CPU has instructions that multiply matrices in bfloat16; None where it does not say.

    Without them bfloat16 is emulated, at a twentieth of the speed where the CPU lacks AVX-512 too.
    """
    try:
        text = CPU_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return not _BFLOAT16_FLAGS.isdisjoint(flags[1].split()) if flags else None
