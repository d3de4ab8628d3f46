"""`ftcli doctor`: this machine's hardware, whether its libraries are in the tested ranges, and what works offline."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ftcli import __version__
from ftcli.cli import arguments, output
from ftcli.core import assets, hardware, hub_cache, torch_build
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.plugins import plugin_loading

SUMMARY = "show the hardware and the installed libraries, and warn of untested versions"
ORDER = 60

LIBRARIES = (
    "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "hydra-core", "omegaconf",
)  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def outside_ranges() -> list[str]:
    """The requirements of ftcli that the installed packages do not meet."""
    from packaging.requirements import Requirement

    try:
        wanted = metadata.requires("ftcli") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        have = _version(requirement.name)
        if have is None or not requirement.specifier.contains(have, prereleases=True):
            found.append(f"{requirement} (installed: {have or 'nothing'})")
    return found


def without_network() -> dict[str, Any]:
    """What of the hub is here: the choices of `model` whose weights are, other models, and data sets."""
    from ftcli.core.strict_yaml import load
    from ftcli.data.files.hub_sets import cached_dataset
    from ftcli.models.availability import is_cached

    named = {choice: load(path).data.get("name_or_path") for choice, path in assets.choices("model").items()}
    cached = hub_cache.cached("models")
    whole = [name for name in cached if is_cached(name, None)]
    choices = sorted(choice for choice, name in named.items() if name in whole)
    return {
        "model": choices,
        "other_models": [name for name in whole if name not in named.values()],
        "incomplete_models": [name for name in cached if name not in whole],
        "data_sets": [name for name in hub_cache.cached("datasets") if cached_dataset(name, None)],
    }


def examine() -> dict[str, Any]:
    """The whole report, as data."""
    gpus = hardware.gpus()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    return {
        "ftcli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": hardware.num_cores(),
        "memory_gib": round(memory, 1) if memory else None,
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "gpus": [
            {
                "name": gpu.name,
                "memory_gib": round(gpu.memory_gib, 1),
                "free_gib": round(gpu.free_gib, 1),
                "bfloat16": gpu.has_bfloat16,
            }
            for gpu in gpus
        ],
        "driver_cuda": ".".join(map(str, driver)) if (driver := hardware.driver_cuda()) else None,
        "torch_built_for": torch_build.built_for(),
        "gpu_unusable": list(torch_build.why_no_gpu() or ()) if gpus else [],
        "plugins": plugin_loading.recorded(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "outside_ranges": outside_ranges(),
        "hub_cache": str(hub_cache.hub_cache()),
        "hub_offline": bool(hub_cache.offline()),
        "without_network": without_network(),
    }


def _of_hub(here: dict[str, Any]) -> None:
    """Print what works without a network."""
    models = [f"model={name}" for name in here["model"]] + [f"model.name_or_path={n}" for n in here["other_models"]]
    sets = [f"data.path=hub:{name}" for name in here["data_sets"]]
    output.say("works without a network: local files and folders, the built-in model and rows (recipe=demo)")
    for name, entries in (("models", models), ("data sets", sets)):
        output.say(f"  {name} of the hub in the cache: {', '.join(entries) if entries else 'none'}")
    if here["incomplete_models"]:
        output.say(f"  only in part in the cache, so not without a network: {', '.join(here['incomplete_models'])}")


def run(argv: Sequence[str]) -> int:
    """Print the report."""
    parser = arguments.parser("doctor", __doc__ or "")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    found = examine()
    if options.json:
        output.data(found)
        return EXIT_DONE
    gpus = [f"{gpu['name']}, {gpu['free_gib']} of {gpu['memory_gib']} GiB free" for gpu in found["gpus"]] or [
        "none: training runs on the CPU in float32"
    ]
    rows = [(key, str(found[key])) for key in ("ftcli", "python", "platform", "cores", "memory_gib", "disk_free_gib")]
    rows += [("gpu", gpu) for gpu in gpus]
    rows += [(name, version or "not installed") for name, version in found["libraries"].items()]
    rows += [("plugin", f"{name} ({what[:40]})") for name, what in found["plugins"].items()]
    rows += [("hub cache", found["hub_cache"] + (" (offline)" if found["hub_offline"] else ""))]
    output.table(rows)
    _of_hub(found["without_network"])
    if found["gpu_unusable"]:
        what, fix = found["gpu_unusable"]
        output.text(f"warning: {what}\n  fix: {fix}")
    for line in found["outside_ranges"]:
        output.say(f"warning: ftcli needs {line}")
    return EXIT_DONE
