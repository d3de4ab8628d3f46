"""environment.json: the versions and devices a run was computed with. No environment variables, so no secrets."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ftcli.settings.run_spec import RunSpec

_PACKAGES = (
    "ftcli", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors",
    "bitsandbytes", "numpy", "pyarrow",
)  # fmt: skip

SCHEMA = 1


def environment(spec: RunSpec) -> dict[str, Any]:
    """Versions of Python and the packages, platform, devices and threads of this process."""
    on_gpu = spec.launch.device == "cuda"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if on_gpu else []
    return {
        "schema": SCHEMA,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "cuda": torch.version.cuda if on_gpu else None,
        "devices": gpus or [platform.processor() or "cpu"],
        "num_processes": spec.launch.num_processes,
        "num_threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
