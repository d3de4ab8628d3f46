"""A terminal on which the progress of a worker is drawn: what the command line puts in the place of standard error.

Without one, as where the output goes to a file, the worker writes plain lines.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from typing import TextIO

from ftcli.runs.worker_records import Record


class Screen(ABC):
    """Takes what a worker says and how far it is. Text that anybody writes meanwhile stands above what is drawn."""

    @abstractmethod
    def write(self, text: str) -> int:
        """Write text of several lines, or part of one."""

    @abstractmethod
    def flush(self) -> None:
        """Show what was written."""

    @abstractmethod
    def take(self, record: Record) -> None:
        """Take note of a record."""

    @abstractmethod
    def begin(self) -> None:
        """Draw from here on."""

    @abstractmethod
    def end(self) -> None:
        """Draw no longer, and leave nothing half drawn."""


def own_screen() -> Screen | None:
    """The screen in the place of standard error; None where there is none."""
    return sys.stderr if isinstance(sys.stderr, Screen) else None


def can_be_redrawn(stream: TextIO | None = None) -> bool:
    """Whether standard error, or that stream, is a terminal with a person before it, where lines can be drawn anew."""
    automatic = os.environ.get("CI", "").lower() not in ("", "0", "false")
    kind = os.environ.get("TERM", "").lower()
    return (stream or sys.stderr).isatty() and not automatic and kind not in ("", "dumb", "unknown")
