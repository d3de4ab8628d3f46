"""Errors by which libraries say that memory or disk is exhausted, another process lost, or a file refused: a situation,
no bug."""

from __future__ import annotations

import errno
import os
import re

from ftcli.core.errors import CheckpointError, DiskError, FtcliError, OutOfMemory, Problem, RankLost

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
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
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
    # safetensors passes the system's words on in an error of its own.
    if (isinstance(error, OSError) and error.errno in _DISK) or "No space left on device" in text:
        named = str(getattr(error, "filename", None) or "the disk")
        return DiskError(Problem(named, f"cannot be written: {_in_short(text)}", "free some space, then resume"))
    return None


def several() -> bool:
    """Whether this is one process of several of a run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _names_memory(text: str) -> bool:
    return any(sign in text for sign in _MEMORY)


def _in_short(text: str) -> str:
    """The first sentences of an error, without the allocator's advice."""
    sentences = [found.strip() for found in _SENTENCES.findall(text) if found.strip()]
    return " ".join(sentences[:3]) or "no details"
