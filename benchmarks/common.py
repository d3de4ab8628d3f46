"""What the benchmarks share: versions of what was measured, and where results are kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "hydra-core", "bitsandbytes")
RESULTS = Path(__file__).parent / "results"

# Runs in a process of its own, whose children are then those of this command alone.
_MEASURED = (
    "import json, resource, subprocess, sys; "
    "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode; "
    "print(json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))"
)


def peak_gib(words: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Peak resident memory of an ftcli command and all of its processes.

    Raises:
        RuntimeError: the command failed.
    """
    command = [sys.executable, "-c", _MEASURED, sys.executable, "-m", "ftcli", *words]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    code, kib = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"ftcli {' '.join(words)}: exit {code}")
    return float(kib) / 1024**2


def versions() -> dict[str, str]:
    """Library versions, Python and the size of the machine."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    return {**found, "python": platform.python_version(), "cores": str(os.cpu_count()), "machine": platform.machine()}


def save(name: str, result: dict[str, Any]) -> None:
    """Write a result under benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
