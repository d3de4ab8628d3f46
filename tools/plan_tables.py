"""The tables of what a plan counts and of how a command ends, from the code."""

from __future__ import annotations

from ftcli.core.exit_codes import EXIT_CODES
from ftcli.core.text import table
from ftcli.plan.memory import PARTS
from ftcli.runs.stop_signals import MEANINGS


def memory_parts() -> str:
    """Each part of a memory estimate with what it is."""
    return table(("Part", "What it is"), [(f"`{name}`", text) for name, text in PARTS.items()])


def exit_codes() -> str:
    """Every exit code, and what it means."""
    return table(("Code", "Means"), [(str(code), means) for code, means in sorted(EXIT_CODES.items())])


def stop_signals() -> str:
    """Every signal that stops, and who sends it."""
    return table(("Signal", "Sent by"), [(f"`{name}`", means) for name, means in MEANINGS.items()])
