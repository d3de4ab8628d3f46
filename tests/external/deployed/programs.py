"""Servers on a CPU out of the environments that `make vllm` and `make mlx` make."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.ranks import environment

VLLM, MLX = (REPOSITORY / "build" / name / "bin" for name in ("vllm", "mlx"))
NEEDS_VLLM = pytest.mark.skipif(not (VLLM / "vllm").is_file(), reason="make vllm")
NEEDS_MLX = pytest.mark.skipif(not (MLX / "mlx_lm.server").is_file(), reason="make mlx")
STARTS_SECONDS = 400.0
"""vLLM takes some thirty, on a machine with nothing else to do."""


def with_programs() -> dict[str, str]:
    """An environment with these programs on PATH, where vLLM takes one GiB and no core for itself."""
    own = {
        "PATH": os.pathsep.join([str(VLLM), str(MLX), os.environ["PATH"]]),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return environment(**own)


@contextlib.contextmanager
def serving(words: Sequence[str], cwd: Path) -> Iterator[str]:
    """What a command serves, until the block ends; yields the address. --port is added to the words."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = cwd / f"server-{port}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*words, "--port", str(port)],
            cwd=cwd,
            env=with_programs(),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    family = [psutil.Process(process.pid)]
    try:
        until = time.monotonic() + STARTS_SECONDS
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=120):
                break
            time.sleep(0.2)
        family += family[0].children(recursive=True)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.wait(120)
        assert not psutil.wait_procs(family, timeout=120)[1]
