"""Errors by which libraries say that memory or disk is exhausted, another process or a connection lost, or a file
refused or gone: a situation, no bug."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcli.core.errors import (
    DISK_ERRNOS,
    CheckpointError,
    ConfigError,
    DiskError,
    FtcliError,
    OutOfMemory,
    Problem,
    RankLost,
)
from ftcli.runs import rundir
from ftcli.runs.checkpoints import step_of

_MEMORY = re.compile(
    r"out of memory"  # CUDA, HIP, XPU, MPS; bitsandbytes and NCCL pass CUDA's words on
    r"|can't allocate memory|not enough memory"  # torch's allocator of the CPU
    r"|Cannot allocate memory|std::bad_alloc|bad allocation"
    r"|CU\w+_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation"
    r"|No available memory for the cache blocks"  # vLLM
    r"|insufficient shared memory|out of shared memory"  # torch, of a process that reads rows
)
_LOST = re.compile(
    r"Connection closed by peer|Connection reset by peer|Broken pipe|connectFullMesh failed"  # gloo
    r"|Connection refused|Timed out waiting|Application timeout caused pair closure|Read timeout|Socket Timeout"
    r"|NCCL communicator was aborted|ncclRemoteError|ncclSystemError|Watchdog caught collective operation timeout"
    r"|DistNetworkError|The client socket has|Failed to recv, got 0 bytes"
)
_READER_LOST = re.compile(
    r"DataLoader worker \(pid.*(exited unexpectedly|is killed by signal)|subprocesses has abruptly died"
)
_CONNECTIONS = frozenset(
    (
        *("httpx2.TransportError", "httpx.TransportError", "urllib3.exceptions.HTTPError"),
        *("requests.exceptions.ConnectionError", "requests.exceptions.Timeout"),
        *("requests.exceptions.ChunkedEncodingError", "aiohttp.client_exceptions.ClientError"),
        *("http.client.IncompleteRead", "http.client.RemoteDisconnected"),
    )
)
"""Errors of the libraries that fetch rows and models, by name, since a run need not have them."""
_DISK = DISK_ERRNOS | {errno.EIO, errno.ESTALE}
_DISK_WORDS = re.compile(r"No space left on device|Disk quota exceeded|File too large")
_TORCH_DISK = re.compile(r"PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+")
"""What torch.save says where the disk is full; it does not say why."""
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO})
_OS_ERROR = re.compile(r"(?:\(os error |\[Errno )(\d+)[\])]")
"""How safetensors and arrow pass the system's error on."""
_SENTENCES = re.compile(r"(?:[^.\n]|\.(?=\S))+\.?")


def as_situation(error: BaseException, run: Path | None = None) -> FtcliError | None:
    """The error as one of ftcli's own where it is such a situation; None where it is not.

    Args:
        run: the directory of the run or stage that this process works in.
    """
    for each in _chain(error):
        found = _memory(each) or _lost(each) or _unsafe(each) or _disk(each)
        found = found or (_gone(each, run) if run is not None else None)
        if found is not None:
            return found
    if run is not None and not os.path.isdir(run):
        return DiskError(Problem(str(run), f"is gone: {_in_short(str(error))}", "put it back, then resume"))
    return None


def several() -> bool:
    """Whether this is one process of several of a run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that led to it: a library that fails to clean up raises another one on top."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _memory(error: BaseException) -> FtcliError | None:
    text = str(error)
    said = isinstance(error, RuntimeError | ValueError | OSError) and _MEMORY.search(text)
    if not (said or isinstance(error, MemoryError) or errno.ENOMEM in _numbers(error)):
        return None
    where = "the GPU" if "CUDA" in text or "HIP" in text else "the machine"
    fix = "use a smaller batch, shorter rows or fewer trained parameters; ftcli plan shows the parts"
    return OutOfMemory(Problem(where, f"ran out of memory: {_in_short(text)}", fix))


def _lost(error: BaseException) -> FtcliError | None:
    text, names = str(error), {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    if several() and isinstance(error, RuntimeError) and _LOST.search(f"{type(error).__name__}: {text}"):
        fix = "see the logs of the other processes, then resume"
        return RankLost(Problem("another process of the run", f"was lost: {_in_short(text)}", fix))
    if isinstance(error, RuntimeError) and _READER_LOST.search(text):
        return RankLost(Problem("a process that reads rows", f"was lost: {_in_short(text)}", "resume"))
    if "OfflineModeIsEnabled" in type(error).__name__:
        fix = "unset HF_HUB_OFFLINE, or fetch it while there is a network"
        return ConfigError(Problem("offline", f"cannot be fetched: {_in_short(text)}", fix))
    if names & _CONNECTIONS or isinstance(error, ConnectionError | TimeoutError):
        fix = "see that what the run fetches from can be reached, then resume"
        return RankLost(Problem("a connection", f"was lost: {_in_short(text)}", fix))
    return None


def _unsafe(error: BaseException) -> FtcliError | None:
    if "Weights only load failed" not in str(error):
        return None
    what = "a file of the checkpoint holds more than tensors and plain values: loading it would run its code"
    fix = "take weights and checkpoints in safetensors, or start a new run with --from"
    return CheckpointError(Problem("checkpoint", what, fix))


def _disk(error: BaseException) -> FtcliError | None:
    text = str(error)
    of_torch = isinstance(error, RuntimeError) and _TORCH_DISK.search(text) is not None
    if not (_numbers(error) & _DISK or _DISK_WORDS.search(text) or of_torch):
        return None
    named = str(getattr(error, "filename", None) or "the disk")
    why = "it took only a part of a file of tensors" if of_torch else _in_short(text)
    return DiskError(Problem(named, f"cannot be written: {why}", "free some space, then resume"))


def _gone(error: BaseException, run: Path) -> FtcliError | None:
    """A file of the run, or one that its spec names, that vanished or may no longer be used."""
    file = getattr(error, "filename", None)
    if not isinstance(error, OSError) or error.errno not in _GONE or not isinstance(file, str):
        return None
    path, why = Path(os.path.abspath(file)), _in_short(str(error.strerror))
    if step_of(_below(path, run / rundir.CHECKPOINTS)) is not None and os.path.isdir(run):
        fix = "resume again: a checkpoint that is not whole is passed over by name"
        return CheckpointError(Problem(file, f"cannot be read: {why}", fix))
    if path.is_relative_to(run):
        return DiskError(
            Problem(file, f"cannot be read or written: {why}", "give the run its folder back, then resume")
        )
    if any(path.is_relative_to(named) for named in _named_in(run)):
        return ConfigError(Problem(file, f"cannot be read: {why}", "put it back, then resume"))
    return None


def _below(path: Path, folder: Path) -> Path:
    """The entry of a folder that a path leads through; the folder itself where it does not."""
    return folder / path.relative_to(folder).parts[0] if folder in path.parents else folder


def _named_in(run: Path) -> Iterator[str]:
    """The absolute paths that a run's spec may mean."""
    try:
        left: list[Any] = [json.loads((run / rundir.SPEC).read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return
    while left:
        value = left.pop()
        if isinstance(value, dict | list):
            left.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, str) and value.strip("."):
            yield os.path.abspath(value)


def _numbers(error: BaseException) -> set[int]:
    """The system's error numbers that an error carries."""
    own = {error.errno} if isinstance(error, OSError) and error.errno is not None else set()
    return own | {int(number) for number in _OS_ERROR.findall(str(error))}


def _in_short(text: str) -> str:
    """The first sentences of an error, without the allocator's advice."""
    sentences = [found.strip() for found in _SENTENCES.findall(text) if found.strip()]
    return " ".join(sentences[:3]) or "no details"
