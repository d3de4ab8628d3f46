"""What commands can do with any job.

A job that is asked for and one that has a folder are two things: the first was composed and has nothing to report, the
second is on disk and may be finished. One class for both would be a heap of optionals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, Problem
from ftcli.runs import rundir


class Job(ABC):
    """A job as it is asked for: composed, every mistake in it told, not started."""

    @abstractmethod
    def check(self, *, as_json: bool) -> None:
        """Say that nothing is wrong; whatever is was raised when it was composed."""

    @abstractmethod
    def plan(self, *, as_json: bool) -> None:
        """Print what it will be."""

    @abstractmethod
    def show(self, *, as_json: bool) -> None:
        """Print its configuration."""

    @abstractmethod
    def start(self, argv: Sequence[str], *, as_json: bool) -> int:
        """Make its folder, train, and report.

        Args:
            argv: the command, which the folder keeps.

        Returns:
            The exit code.

        Raises:
            ConfigError: this machine lacks what it needs, or its folder holds something already.
        """


class JobFolder(ABC):
    """A job that has begun: its folder."""

    @abstractmethod
    def resume(self, request: Request, *, dry_run: bool, as_json: bool) -> int:
        """Go on with it, changed by the overrides of a request; with `dry_run` show what is left and change nothing.

        Returns:
            The exit code.

        Raises:
            ConfigError: it cannot go on, or not with these overrides. It is left as it was.
        """

    @abstractmethod
    def like(self, request: Request) -> Job:
        """A new job like it, with the overrides of a request over its configuration.

        Raises:
            ConfigError: everything that is wrong with that.
        """

    @abstractmethod
    def report(self, *, as_json: bool) -> None:
        """Print what came of it.

        Raises:
            ConfigError: nothing did yet.
        """


def finished(folder: Path) -> dict[str, Any]:
    """The result of a job.

    Raises:
        ConfigError: it is not finished.
    """
    result = rundir.read_result(folder)
    if result is None:
        fix = f"go on with ftcli train --resume {folder}"
        raise ConfigError(Problem(str(folder), "is not finished: it has no result.json", fix))
    return result
