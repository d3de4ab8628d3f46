"""What the benchmarks share: versions of what was measured, and where results are kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import mean, stdev
from typing import Any

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "hydra-core", "bitsandbytes")
RESULTS = Path(__file__).parent / "results"
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t at 97.5%, by the number of values."""


def peak_gib(words: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Peak resident memory of an ftcli command and all of its processes.

    Raises:
        RuntimeError: the command failed.
    """
    cost = _run(words, environment)
    if cost.code:
        raise RuntimeError(f"ftcli {' '.join(words)}: exit {cost.code}")
    return cost.peak_gib


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    code: int
    out: str
    err: str
    seconds: float
    """Wall time."""
    processor_seconds: float
    """Of the command and its processes; a busy machine disturbs it less than wall time."""
    peak_gib: float
    """Resident memory of its largest process."""


def cost_of(words: Sequence[str], checkout: Path, folder: Path) -> Cost:
    """Run ftcli as another checkout has it, in a folder and offline, with its bytecode kept beside."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    bytecode = folder / "bytecode"
    environment |= {"PYTHONPATH": str(checkout), "PYTHONPYCACHEPREFIX": str(bytecode), "HF_HUB_OFFLINE": "1"}
    return _run(words, environment, folder)


def _run(words: Sequence[str], environment: Mapping[str, str] | None, folder: Path | None = None) -> Cost:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        command = [sys.executable, "-m", "ftcli", *words]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    processor = used.ru_utime + used.ru_stime
    return Cost(process.returncode, *texts, took, processor, used.ru_maxrss / 1024**2)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of up to ten values, and the ends of its 95% interval; without width for one value."""
    middle, number = mean(values), len(values)
    half = T_95[number] * stdev(values) / number**0.5 if number > 1 else 0.0
    return middle, middle - half, middle + half


def versions() -> dict[str, str]:
    """Library versions, Python and the size of the machine."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    return {**found, "python": platform.python_version(), "cores": str(os.cpu_count()), "machine": platform.machine()}


def keep(name: str, key: str, found: Sequence[Mapping[str, Any]], order: Iterable[str], **about: Any) -> None:
    """Write results under benchmarks/results beside those of other names that are there.

    Args:
        key: of the file, under which the results stand.
        found: results, each with its `name`.
        order: the names in which they are written.
        about: what else the file says.
    """
    path = RESULTS / f"{name}.json"
    there = json.loads(path.read_text(encoding="utf-8"))[key] if path.is_file() else []
    every = {each["name"]: each for each in (*there, *found)}
    ordered = [every[each] for each in order if each in every]
    save(name, {"schema": 1, **about, key: ordered, "versions": versions()})


def save(name: str, result: dict[str, Any]) -> None:
    """Write a result under benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
