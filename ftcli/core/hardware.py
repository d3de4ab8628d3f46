"""The detected hardware, without torch: GPUs through NVML, cores through the scheduler's affinity."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Gpu:
    """One visible GPU; memory in GiB."""

    name: str
    memory_gib: float
    capability: tuple[int, int]

    @property
    def has_bfloat16(self) -> bool:
        """Whether it computes in bfloat16 (Ampere, compute capability 8.0, and later)."""
        return self.capability >= (8, 0)


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that a process started here would see, as CUDA_VISIBLE_DEVICES allows; none without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip():
        return ()
    if not _has_driver():
        return ()
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = {str(i): pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())}
        chosen = list(handles) if visible is None else [entry.strip() for entry in visible.split(",")]
        return tuple(_describe(pynvml, handles.get(entry) or _by_uuid(pynvml, entry)) for entry in chosen)
    except pynvml.NVMLError:
        return ()
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _has_driver() -> bool:
    """Whether NVML's library can be loaded. Checked first, since pynvml is slow to import and useless without it."""
    if not sys.platform.startswith("linux"):
        return True
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _by_uuid(nvml: object, entry: str) -> object:
    return nvml.nvmlDeviceGetHandleByUUID(entry)  # type: ignore[attr-defined]


def _describe(nvml: object, handle: object) -> Gpu:
    name = nvml.nvmlDeviceGetName(handle)  # type: ignore[attr-defined]
    memory = nvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30  # type: ignore[attr-defined]
    capability = nvml.nvmlDeviceGetCudaComputeCapability(handle)  # type: ignore[attr-defined]
    return Gpu(name.decode() if isinstance(name, bytes) else name, memory, tuple(capability))


def num_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
