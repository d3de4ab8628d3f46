"""What the benchmarks share: versions of what was measured, and where results are kept."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "hydra-core", "bitsandbytes")
RESULTS = Path(__file__).parent / "results"


def versions() -> dict[str, str]:
    """Library versions, Python and the size of the machine."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    return {**found, "python": platform.python_version(), "cores": str(os.cpu_count()), "machine": platform.machine()}


def save(name: str, result: dict[str, Any]) -> None:
    """Write a result under benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
