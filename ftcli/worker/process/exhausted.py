"""Errors by which libraries say that the machine has no more memory or disk: a user's situation, not a bug."""

from __future__ import annotations

import errno
import re

from ftcli.core.errors import DiskError, FtcliError, OutOfMemory, Problem

_MEMORY = (
    "out of memory",  # CUDA, HIP, XPU, MPS; bitsandbytes and NCCL pass CUDA's words on
    "can't allocate memory",  # torch's allocator of the CPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "No available memory for the cache blocks",  # vLLM
)
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_SENTENCES = re.compile(r"(?:[^.\n]|\.(?=\S))+\.?")


def as_situation(error: BaseException) -> FtcliError | None:
    """The error as one of ftcli's own where memory or disk is exhausted; None where it is something else."""
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ValueError) and _names_memory(text)):
        where = "the GPU" if "CUDA" in text or "HIP" in text else "the machine"
        fix = "use a smaller batch, shorter rows or fewer trained parameters; ftcli plan shows the parts"
        return OutOfMemory(Problem(where, f"ran out of memory: {_in_short(text)}", fix))
    # safetensors passes the system's words on in an error of its own.
    if (isinstance(error, OSError) and error.errno in _DISK) or "No space left on device" in text:
        named = str(getattr(error, "filename", None) or "the disk")
        return DiskError(Problem(named, f"cannot be written: {_in_short(text)}", "free some space, then resume"))
    return None


def _names_memory(text: str) -> bool:
    return any(sign in text for sign in _MEMORY)


def _in_short(text: str) -> str:
    """The first sentences of an error, without the allocator's advice."""
    sentences = [found.strip() for found in _SENTENCES.findall(text) if found.strip()]
    return " ".join(sentences[:3]) or "no details"
