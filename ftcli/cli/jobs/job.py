"""What commands can do with any job.

A requested job and a job with a folder are two classes: the first is composed and has no result, the second is on disk
and may be finished. In a single class most fields would be optional.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import run_end, rundir
from ftcli.settings.run_spec import RunSpec

if TYPE_CHECKING:
    from ftcli.cli.jobs.submission import Asked
    from ftcli.reports.run_record import RunRecord


class Job(ABC):
    """A requested job: composed and checked, not started."""

    @abstractmethod
    def specs(self) -> Sequence[RunSpec]:
        """The specs of its runs."""

    @abstractmethod
    def runs(self) -> Sequence[ResolvedRun]:
        """Its runs."""

    @abstractmethod
    def runs_by_stage(self) -> Mapping[str, RunSpec]:
        """The specs of its runs by the stage of a pipeline that each is; of a single run by ""."""

    @abstractmethod
    def unnamed(self) -> Mapping[str, str]:
        """The settings whose model or rows are still to be named, each with the word for what it takes."""

    @abstractmethod
    def flags(self) -> set[str]:
        """The flags that it needs, which count on each command line anew."""

    @abstractmethod
    def check(self, *, as_json: bool) -> None:
        """Print that there are no problems; any were raised when the job was composed."""

    @abstractmethod
    def plan(self, *, as_json: bool, alone: bool = True) -> None:
        """Print its plan.

        Args:
            alone: with what would be submitted for it, where that is to be a job of its own.
        """

    @abstractmethod
    def asked(self) -> Asked | None:
        """What a scheduler is asked for, where it is given to one from here; inside its job it runs."""

    @abstractmethod
    def prepared(self, argv: Sequence[str]) -> Path:
        """Create its folder, with what a resume needs.

        Raises:
            ConfigError: it cannot be created, or is not empty.
        """

    @abstractmethod
    def show(self, *, as_json: bool) -> None:
        """Print its configuration."""

    @abstractmethod
    def start(self, argv: Sequence[str], *, as_json: bool, anyway: bool = False) -> int:
        """Create its folder, train, and report.

        Args:
            argv: the command, which is stored in the folder.
            anyway: also where the disk does not take what it will write.

        Returns:
            The exit code.

        Raises:
            ConfigError: this machine lacks what the job needs, or its folder is not empty.
            DiskError: the disk has no room for what it will write.
        """


class JobFolder(ABC):
    """The folder of a job that has begun."""

    @abstractmethod
    def asked(self, request: Request) -> Asked | None:
        """What a scheduler is asked for to resume it, where that is to be a job.

        Raises:
            ConfigError: it cannot resume.
        """

    @abstractmethod
    def resume(self, request: Request, *, dry_run: bool, as_json: bool, anyway: bool = False) -> int:
        """Resume it with the overrides of a request; with `dry_run`, show the remaining steps and change nothing.

        Args:
            anyway: also where the disk does not take what is left to write.

        Returns:
            The exit code.

        Raises:
            ConfigError: it cannot resume, or not with these overrides. The folder is unchanged.
            DiskError: the disk has no room for what is left to write.
        """

    @abstractmethod
    def like(self, request: Request) -> Job:
        """A new job with its configuration and the overrides of a request.

        Raises:
            ConfigError: all problems found.
        """

    @abstractmethod
    def report(self, *, as_json: bool) -> None:
        """Print its result, or where it stands.

        Raises:
            ConfigError: a file of it is damaged.
        """

    @abstractmethod
    def records(self) -> list[RunRecord]:
        """What the page of a report shows of its runs.

        Raises:
            ConfigError: a file of one is damaged.
        """


def finished(folder: Path) -> dict[str, Any]:
    """The result of a job.

    Raises:
        ConfigError: it is not finished.
    """
    result = rundir.read_result(folder)
    if result is None:
        fix = f"resume with: ftcli train --resume {shell_word(folder)}"
        end = run_end.read(folder)
        how = f"it ended with {end.text()}" if end is not None and end.code != EXIT_DONE else "it has no result.json"
        raise ConfigError(Problem(str(folder), f"is not finished: {how}", fix))
    return result
