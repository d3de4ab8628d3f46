"""The exit codes of ftcli and its worker. A module of their own, since a help screen needs nothing else of `errors`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_CONFIG = 2
EXIT_DATA = 3
EXIT_MEMORY = 4
EXIT_CHECKPOINT = 5
EXIT_DISK = 6
EXIT_NOT_FINITE = 7
EXIT_RANK_LOST = 8
EXIT_GATE = 9
EXIT_INTERRUPTED = 75

EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {
        EXIT_DONE: "done",
        EXIT_BUG: "a bug in ftcli: the full traceback, and the command that reproduces it",
        EXIT_CONFIG: "configuration error, found before rows are read: all problems, each with place and remedy",
        EXIT_DATA: "data error: an unusable row, with file and line",
        EXIT_MEMORY: "out of memory: what the plan expected, and the settings that help most",
        EXIT_CHECKPOINT: "no checkpoint that could be resumed from is whole",
        EXIT_DISK: "the disk is full, or does not take what is written",
        EXIT_NOT_FINITE: "a loss or gradient that is not a number, before broken weights could be saved",
        EXIT_RANK_LOST: "a process of the run died or stopped answering, or a connection was lost; resumable",
        EXIT_GATE: "a gate was not passed: the run is whole, its result is not good enough",
        EXIT_INTERRUPTED: "interrupted, resumable",
    }
)
"""Every exit code of ftcli and its worker, and what it means."""

EXIT_NAMES: Mapping[int, str] = MappingProxyType(
    {
        EXIT_DONE: "done",
        EXIT_BUG: "bug",
        EXIT_CONFIG: "configuration",
        EXIT_DATA: "data",
        EXIT_MEMORY: "memory",
        EXIT_CHECKPOINT: "checkpoint",
        EXIT_DISK: "disk",
        EXIT_NOT_FINITE: "not_finite",
        EXIT_RANK_LOST: "rank_lost",
        EXIT_GATE: "gate",
        EXIT_INTERRUPTED: "interrupted",
    }
)
"""A word for each code, for programs that read `end.json`."""

OWN_CODES = frozenset(EXIT_CODES) - {EXIT_BUG}
"""The codes whose cause has been told already."""
