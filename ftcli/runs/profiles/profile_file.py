"""profile.json: where the seconds of a run's last session went, a file for each of its processes.

The first process keeps profile.json and trace.json.gz, the others the same with their number: profile-1.json.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftcli.core.text import count, duration
from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir
from ftcli.runs.profiles.time_parts import OF_STEPS, PARTS, WAIT

PROFILE = "profile.json"
TRACE = "trace.json.gz"
"""The parts as spans, in the format that chrome://tracing and Perfetto read."""
OPERATIONS = "operations.json.gz"
"""What the operations of some steps took, in that format, where `run.profile_steps` asks for it."""
SCHEMA = 1
_OF_PROCESS = re.compile(r"profile(?:-(\d{1,6}))?\.json")
_MOST_READ = 1024
"""Processes whose files are read."""
_LONGEST_LINE = 4
"""Parts that one line names."""


@dataclass(frozen=True, kw_only=True)
class PartTime:
    """What one part took."""

    seconds: float
    times: int


@dataclass(frozen=True, kw_only=True)
class ProcessProfile:
    """Where the seconds of one process went."""

    rank: int
    processes: int
    """How many the run has."""
    from_step: int
    """The step that its session began after; 0 unless it was resumed."""
    steps: int
    """Steps of its session."""
    seconds: float
    """From the import of its libraries to the end; the sum of the parts."""
    parts: Mapping[str, PartTime]
    """By the names of PARTS, in their order."""

    def step_seconds(self) -> float | None:
        """What a step takes in the mean; None of a session without one."""
        inside = sum(each.seconds for name, each in self.parts.items() if name in OF_STEPS)
        return inside / self.steps if self.steps else None


def name_of(file: str, rank: int) -> str:
    """The file of a process: that of the first has the plain name."""
    stem, dot, ending = file.partition(".")
    return f"{stem}-{rank}{dot}{ending}" if rank else file


def write_profile(run: Path, profile: ProcessProfile) -> None:
    """Write the file of a process."""
    content = {"schema": SCHEMA, **asdict(profile)}
    rundir.write_json(run / name_of(PROFILE, profile.rank), content)


def forget(run: Path) -> None:
    """Remove what an earlier session kept; for the first process, before the others begin to write."""
    kept = (PROFILE, TRACE, OPERATIONS)
    shapes = [re.compile(re.escape(stem) + r"(-\d+)?" + re.escape(rest)) for stem, rest in map(_divided, kept)]
    for name in os.listdir(run):
        if any(shape.fullmatch(name) for shape in shapes):
            (run / name).unlink(missing_ok=True)


def _divided(file: str) -> tuple[str, str]:
    stem, dot, ending = file.partition(".")
    return stem, dot + ending


def read_profiles(run: Path) -> tuple[ProcessProfile, ...]:
    """The profiles of a run's processes, by their numbers; () of a run that keeps none, or not as ftcli writes them."""
    try:
        numbers = sorted(int(found[1] or 0) for name in os.listdir(run) if (found := _OF_PROCESS.fullmatch(name)))
    except OSError:
        return ()
    return tuple(
        each for rank in numbers[:_MOST_READ] if (each := _read(run / name_of(PROFILE, rank), rank)) is not None
    )


def _read(file: Path, rank: int) -> ProcessProfile | None:
    try:
        told = foreign_files.read_json(file)
        if told.pop("schema") != SCHEMA:
            return None
        known = told["parts"].keys() & PARTS.keys()
        parts = {name: PartTime(**told["parts"][name]) for name in PARTS if name in known}
        found = ProcessProfile(**{**told, "parts": parts})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    counts = (found.rank, found.processes, found.from_step, found.steps, *(each.times for each in parts.values()))
    seconds = (found.seconds, *(each.seconds for each in parts.values()))
    right = all(type(each) is int and each >= 0 for each in counts) and all(map(_is_time, seconds))
    return found if right and found.rank == rank else None


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def as_data(profiles: Sequence[ProcessProfile]) -> dict[str, Any]:
    """The profile of the first process for result.json and other programs; of several, what each waits for others."""
    if not profiles:
        return {}
    first = profiles[0]
    told: dict[str, Any] = {"from_step": first.from_step, "steps": first.steps, "seconds": first.seconds}
    told["parts"] = {name: asdict(each) for name, each in first.parts.items()}
    if first.processes > 1:
        waits = [{"rank": each.rank, "seconds": each.seconds, WAIT: _seconds(each, WAIT)} for each in profiles]
        told["processes"] = waits
    return {"profile": told}


def profile_line(told: Mapping[str, Any]) -> str:
    """The longest parts of `as_data`'s profile in one line."""
    whole = float(told["seconds"]) or 1.0
    longest = sorted(((each["seconds"], name) for name, each in told["parts"].items()), reverse=True)
    parts = [f"{PARTS[name]} {seconds / whole:.0%}" for seconds, name in longest[:_LONGEST_LINE]]
    return f"{duration(whole)}: {', '.join(parts)}"


def profile_rows(profiles: Sequence[ProcessProfile]) -> list[tuple[str, ...]]:
    """The parts of the first process as the rows of a table with a head, the longest first, and their sum."""
    first = profiles[0]
    whole = first.seconds or 1.0
    rows: list[tuple[str, ...]] = [("", "seconds", "share", "times", "a step")]
    for name, each in sorted(first.parts.items(), key=lambda item: -item[1].seconds):
        step = f"{1000 * each.seconds / first.steps:.1f} ms" if first.steps and name in OF_STEPS else ""
        rows.append((PARTS[name], f"{each.seconds:.2f}", f"{each.seconds / whole:.1%}", count(each.times), step))
    of_step = first.step_seconds()
    rows.append(("all", f"{first.seconds:.2f}", "100.0%", "", "" if of_step is None else f"{1000 * of_step:.1f} ms"))
    return rows


def profile_notes(profiles: Sequence[ProcessProfile]) -> Iterator[str]:
    """What is said beside the table: which steps it is of, and how long each of several processes waits for others."""
    first = profiles[0]
    after = f" after step {first.from_step}" if first.from_step else ""
    yield f"{first.steps} steps{after}" + (" of the first process" if first.processes > 1 else "")
    if len(profiles) > 1:
        waits = [(_seconds(each, WAIT), each.rank) for each in profiles]
        (least, quick), (most, slow) = min(waits), max(waits)
        yield f"the processes wait {least:.2f} (rank {quick}) to {most:.2f} s (rank {slow}) for each other"


def _seconds(profile: ProcessProfile, part: str) -> float:
    found = profile.parts.get(part)
    return found.seconds if found is not None else 0.0
