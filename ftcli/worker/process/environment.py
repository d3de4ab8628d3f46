"""environment.json: the versions and devices a run was computed with. No environment variables, so no secrets.

It keeps what the run began with. A resume compares it with what it finds: other tokens would train another model and
are refused, other versions and devices are told, and added to the file.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.plugins import plugin_loading
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec

_PACKAGES = (
    "ftcli", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors",
    "bitsandbytes", "numpy", "pyarrow",
)  # fmt: skip

_TOKENS, _NONE = "tokens", "none"
_BY_NAME = ("packages", "plugins")
_COMPARED = ("python", "machine", *_BY_NAME, "cuda", "devices", "num_threads")
"""What is told where it differs; the system's release is not."""


def environment(spec: RunSpec, tokens: Mapping[str, str]) -> dict[str, Any]:
    """Versions of Python and the packages, platform, devices and threads of this process.

    Args:
        tokens: digests of what makes tokens of the rows, by what it is.
    """
    on_gpu = spec.launch.device == "cuda"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if on_gpu else []
    return {
        "schema": rundir.SCHEMAS[rundir.ENVIRONMENT],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": {name: found for name in _PACKAGES if (found := version_of(name))},
        "cuda": torch.version.cuda if on_gpu else None,
        "devices": gpus or [platform.processor() or "cpu"],
        "num_processes": spec.launch.num_processes,
        "num_threads": torch.get_num_threads(),
        "plugins": plugin_loading.recorded(),
        _TOKENS: dict(tokens),
    }


def went_on(run_dir: Path, now: dict[str, Any], checkpoint: str) -> tuple[dict[str, Any], list[str]]:
    """The content of environment.json for a run that is resumed, and what is different now, for the user.

    Args:
        now: the environment of this process.
        checkpoint: where the run goes on.

    Raises:
        ConfigError: the rows would become other tokens than those that the run began with.
    """
    try:
        began = foreign_files.read_json(run_dir / rundir.ENVIRONMENT)
    except (OSError, ValueError):  # it was stopped before it wrote one
        return now, []
    if not isinstance(began, dict):
        return now, []
    rundir.require_known_schema(run_dir / rundir.ENVIRONMENT, began)
    require_same_tokens(run_dir, began, now)
    before, after = _flat(began), _flat(now)
    both = {name: (before.get(name, _NONE), after.get(name, _NONE)) for name in sorted(before.keys() | after.keys())}
    changed = {name: values for name, values in both.items() if values[0] != values[1]}
    resumes = kept if isinstance(kept := began.get("resumed"), list) else []
    resumed = {"from": checkpoint, "changed": {name: list(values) for name, values in changed.items()}}
    told = [f"began with {name} {old}, and goes on with {new}" for name, (old, new) in changed.items()]
    return {**began, "resumed": [*resumes, resumed]}, told


def require_same_tokens(run_dir: Path, began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Make sure that a resumed run makes the tokens that it began with.

    Raises:
        ConfigError: names what makes other ones.
    """
    known = began.get(_TOKENS)
    if not isinstance(known, dict):  # which versions before 0.2 did not record
        return
    fix = f"put back what it began with, or start a new run with ftcli train --from {shell_word(run_dir)}"
    problems = [
        Problem(str(run_dir), f"{name} is another than when the run began; a resumed run needs the same", fix)
        for name, digest in now[_TOKENS].items()
        if known.get(name) != digest
    ]
    if problems:
        raise ConfigError(*problems)


def _flat(found: Mapping[str, Any]) -> dict[str, str]:
    """What is compared, by name."""
    flat = {name: found.get(name) for name in _COMPARED if name not in _BY_NAME}
    for group in _BY_NAME:
        flat |= each if isinstance(each := found.get(group), dict) else {}
    texts = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in flat.items()}
    return {name: _NONE if value is None else str(value) for name, value in texts.items()}


def version_of(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
