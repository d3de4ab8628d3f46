"""Exhausted memory and disk, lost processes and files are told as what they are, each with its own exit code."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import httpx2
import pytest
import torch
from safetensors import SafetensorError

from ftcli.runs import rundir
from ftcli.worker.process.exhausted import as_situation

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.21 GiB is "
    "free. Including non-PyTorch memory, this process has 77.88 GiB memory in use. If reserved but unallocated memory "
    "is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)


def test_a_real_allocation_that_the_machine_cannot_make_is_no_bug():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    situation = as_situation(caught.value)
    assert situation is not None
    assert situation.exit_code == 4


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (torch.OutOfMemoryError(CUDA), 4, "Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 4, "CUBLAS"),
        (ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."), 4, "cache"),
        (MemoryError(), 4, "no details"),
        (torch.AcceleratorError("CUDA error: out of memory"), 4, "the GPU  ran out of memory"),
        (RuntimeError("std::bad_alloc"), 4, "std::bad_alloc"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 4, "Cannot allocate memory"),
        (SafetensorError("Error while deserializing: Cannot allocate memory (os error 12)"), 4, "os error 12"),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
                "workers are out of shared memory."
            ),
            4,
            "shared memory",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), 8, "a process that reads rows"),
        (ImportError("cannot allocate memory in static TLS block"), None, ""),
        (OSError(errno.ENOSPC, "No space left on device", "model.safetensors"), 6, "model.safetensors"),
        (OSError(errno.EFBIG, "File too large", "log.txt"), 6, "log.txt"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 6, "quota"),
        (OSError(errno.EIO, "Input/output error", "rows.jsonl"), 6, "rows.jsonl"),
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), 6, "too large"),
        (httpx2.ConnectError("[Errno 111] Connection refused"), 8, "a connection  was lost"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), 8, "a connection  was lost"),
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), None, ""),  # of one process it says nothing
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), 6, "No space left"),
        (RuntimeError("I/O error: File too large (os error 27)"), 6, "File too large"),
        (RuntimeError("I/O error: No such file or directory (os error 2)"), None, ""),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 590336 vs 590224"), 6, "a part of a"),
        (OSError(errno.ENOENT, "No such file or directory", "config.json"), None, ""),
        (RuntimeError("size mismatch for lm_head.weight"), None, ""),
        (ValueError("the memory of a goldfish"), None, ""),
    ],
)
def test_each_cause_has_its_code(error, code, words):
    situation = as_situation(error)
    assert (situation and situation.exit_code) == code
    if situation is not None:
        [problem] = situation.problems
        assert words in str(problem)
        assert problem.fix
        assert "PYTORCH_CUDA_ALLOC_CONF" not in str(problem)


def test_what_a_library_raises_while_it_cleans_up_hides_no_cause():
    def write() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "optimizer.pt")
        finally:
            raise RuntimeError("the writer was not closed")

    with pytest.raises(RuntimeError) as caught:
        write()
    situation = as_situation(caught.value)
    assert situation is not None
    assert (situation.exit_code, "optimizer.pt" in str(situation)) == (6, True)


def test_among_several_processes_a_closed_connection_is_a_lost_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for words in ("Connection closed by peer [127.0.0.1]:1", "NCCL communicator was aborted on rank 0."):
        situation = as_situation(RuntimeError(words))
        assert situation is not None
        assert situation.exit_code == 8
    assert as_situation(RuntimeError("size mismatch")) is None


@pytest.mark.parametrize(
    ("file", "number", "code"),
    [
        ("run/metrics.jsonl", errno.EACCES, 6),
        ("run/checkpoints/.staging-4", errno.ENOTDIR, 6),
        ("run/checkpoints/checkpoint-4/optimizer.pt", errno.ENOENT, 5),
        ("rows/part-1.jsonl", errno.ENOENT, 2),
        ("model/config.json", errno.EPERM, 2),
        ("elsewhere/of-ours.py", errno.ENOENT, None),
    ],
)
def test_a_file_that_is_gone_or_refused_is_told_by_whose_it_is(file: str, number: int, code: int | None, here: Path):
    (here / "run").mkdir()
    spec = {"data": {"path": ["rows"]}, "model": {"name_or_path": str(here / "model")}, "notes": [{"key": ".."}]}
    (here / "run" / rundir.SPEC).write_text(json.dumps(spec), encoding="utf-8")
    situation = as_situation(OSError(number, "gone", str(here / file)), here / "run")
    assert (situation and situation.exit_code) == code
    assert situation is None or str(here / file) in str(situation)


def test_where_the_run_s_folder_is_gone_nothing_else_is_the_cause(tmp_path: Path):
    situation = as_situation(RuntimeError("Parent directory does not exist."), tmp_path / "run")
    assert situation is not None
    assert situation.exit_code == 6
