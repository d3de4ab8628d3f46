"""One run of a contender: its command, watched from outside."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from contenders.work import DROPPED, Contender, Seen, Work

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build"
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRL_DISABLE_TELEMETRY": "1",
    "USE_HF": "1",
    "PYTHONWARNINGS": "ignore",
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "true",
    "OMP_NUM_THREADS": "1",
}
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
_CACHES = ("HF_HOME", "MODELSCOPE_CACHE", "XDG_CACHE_HOME", "TMPDIR")


class Failed(Exception):
    """A command that ended with an error, or before its first step; the message holds the end of what it said."""


def run(contender: Contender, python: Path, work: Work) -> Seen:
    """Once, in a fresh process with empty caches.

    Raises:
        CannotDo: it lacks the method or a setting.
        Failed: see there.
    """
    with tempfile.TemporaryDirectory(dir=BUILD, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        began = time.monotonic()
        peak = _done(contender, python, work, folder, {})
        took = time.monotonic() - began
        return _seen(_lines(folder), began, peak, took)


def leak(contender: Contender, python: Path, work: Work) -> dict[str, Any]:
    """How far later documents of its first packed batch move when the first one changes: see watch/sitecustomize.py.

    Raises:
        CannotDo, Failed: as `run`.
    """
    with tempfile.TemporaryDirectory(dir=BUILD, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        further = {"WATCH_LEAK": "1", "WATCH_BEGIN": ",".join(map(str, work.begin))}
        try:
            _done(contender, python, work, folder, further)
        except Failed:
            if not _files(folder):
                raise
        found: dict[str, Any] = _lines(folder)[0]["leak"]
        return found


def _done(contender: Contender, python: Path, work: Work, folder: Path, further: dict[str, str]) -> float:
    """Run it to its end; the peak of its largest process, in MiB."""
    command = [str(python), *contender.arguments(work, folder)]
    watch = {"WATCH_FILE": str(folder / "watched"), "WATCH_PAD": str(work.pad)}
    watch["WATCH_KEYS"] = contender.keys.get(work.method, "input_ids")
    paths = [str(Path(__file__).parent / "watch"), *([] if contender.alone else [str(ROOT)])]
    environment = {**os.environ, **QUIET, **dict.fromkeys(_CACHES, str(folder)), **contender.environment}
    environment |= {**watch, **further, "PYTHONPATH": os.pathsep.join(paths)}
    with open(folder / "said", "wb") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not _files(folder):
        text = (folder / "said").read_text(encoding="utf-8", errors="replace")
        raise Failed(f"{contender.name}, {work.method}: exit {process.returncode}\n{text[-3000:]}")
    return used.ru_maxrss / 1024


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("watched.*"))


def _lines(folder: Path) -> list[dict[str, Any]]:
    """Of the first process, with the tokens of all."""
    each = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in _files(folder)]
    for others in each[1:]:
        for line, other in zip(each[0], others, strict=True):
            for name in ("tokens", "positions"):
                line[name] += other[name]
    return each[0]


def _seen(lines: list[dict[str, Any]], began: float, peak: float, took: float) -> Seen:
    later, speed, step = lines[DROPPED:], None, None
    tokens, positions = (sum(line[name] for line in lines) for name in ("tokens", "positions"))
    if later:
        seconds = later[-1]["at"] - lines[DROPPED - 1]["at"]
        step = seconds / len(later)
        speed = sum(line["tokens"] for line in later) / seconds if tokens else None
    padding = 1 - tokens / positions if positions else 0.0
    return Seen(lines[0]["at"] - began, speed, step, padding, tokens, len(lines), peak, took)


_VERSIONS = (
    "import json, sys; from importlib import metadata as m; "
    "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
)


def version_of(contender: Contender, python: Path) -> dict[str, Any]:
    """Its version and those of the libraries that it trains with, and at which settings it runs."""
    command = [str(python), "-c", _VERSIONS, contender.package, *_LIBRARIES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    libraries = {name: found[name] for name in _LIBRARIES}
    return {"version": found[contender.package], "libraries": libraries, "settings": contender.settings}
