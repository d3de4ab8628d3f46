"""Errors by which libraries say that memory or disk is exhausted, another process lost, or a file refused: a situation,
no bug."""

from __future__ import annotations

import os
import re

from ftcli.core.errors import DISK_ERRNOS, CheckpointError, DiskError, FtcliError, OutOfMemory, Problem, RankLost

_MEMORY = (
    "out of memory",  # CUDA, HIP, XPU, MPS; bitsandbytes and NCCL pass CUDA's words on
    "can't allocate memory",  # torch's allocator of the CPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "No available memory for the cache blocks",  # vLLM
)
_LOST = (
    "Connection closed by peer",  # gloo
    "Connection reset by peer",
    "Broken pipe",
    "connectFullMesh failed",
    "Timed out waiting",
    "Application timeout caused pair closure",
    "NCCL communicator was aborted",
    "ncclRemoteError",
    "ncclSystemError",
    "Watchdog caught collective operation timeout",
)
_OS_ERROR = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
"""How safetensors and arrow pass the system's error on."""
_TORCH_DISK = ("PytorchStreamWriter failed writing", "unexpected pos")
"""What torch.save says where the disk is full; it does not say why."""
_SENTENCES = re.compile(r"(?:[^.\n]|\.(?=\S))+\.?")


def as_situation(error: BaseException) -> FtcliError | None:
    """The error as one of ftcli's own where it is such a situation; None where it is not."""
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ValueError) and _names_memory(text)):
        where = "the GPU" if "CUDA" in text or "HIP" in text else "the machine"
        fix = "use a smaller batch, shorter rows or fewer trained parameters; ftcli plan shows the parts"
        return OutOfMemory(Problem(where, f"ran out of memory: {_in_short(text)}", fix))
    if several() and isinstance(error, RuntimeError) and any(sign in text for sign in _LOST):
        fix = "see the logs of the other processes, then resume"
        return RankLost(Problem("another process of the run", f"was lost: {_in_short(text)}", fix))
    if "Weights only load failed" in text:
        what = "a file of the checkpoint holds more than tensors and plain values: loading it would run its code"
        fix = "take weights and checkpoints in safetensors, or start a new run with --from"
        return CheckpointError(Problem("checkpoint", what, fix))
    if (isinstance(error, OSError) and error.errno in DISK_ERRNOS) or _names_disk(error, text):
        named = str(getattr(error, "filename", None) or "the disk")
        why = "it took only a part of a file of tensors" if _names_torch_disk(error, text) else _in_short(text)
        return DiskError(Problem(named, f"cannot be written: {why}", "free some space, then resume"))
    return None


def _names_disk(error: BaseException, text: str) -> bool:
    """Whether a library's own error says that the disk is full."""
    passed_on = _OS_ERROR.search(text)
    if passed_on is not None:
        return int(passed_on[1] or passed_on[2]) in DISK_ERRNOS
    return _names_torch_disk(error, text) or "No space left on device" in text


def _names_torch_disk(error: BaseException, text: str) -> bool:
    return isinstance(error, RuntimeError) and any(sign in text for sign in _TORCH_DISK)


def several() -> bool:
    """Whether this is one process of several of a run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _names_memory(text: str) -> bool:
    return any(sign in text for sign in _MEMORY)


def _in_short(text: str) -> str:
    """The first sentences of an error, without the allocator's advice."""
    sentences = [found.strip() for found in _SENTENCES.findall(text) if found.strip()]
    return " ".join(sentences[:3]) or "no details"
