"""Exhausted memory and disk are told as what they are, each with its own exit code."""

from __future__ import annotations

import errno

import pytest
import torch

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
        (OSError(errno.ENOSPC, "No space left on device", "model.safetensors"), 6, "model.safetensors"),
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
