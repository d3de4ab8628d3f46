"""The folder of a synthesis stage: its transcripts can be shown, and it resumes only with its pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ftcli.cli.jobs.job import JobFolder
from ftcli.cli.render.transcripts import transcripts
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.runs import rundir
from ftcli.synthesis.synthesis_spec import FILE

if TYPE_CHECKING:
    from ftcli.reports.run_record import RunRecord


@dataclass(frozen=True)
class SynthesisFolder(JobFolder):
    """The folder of a synthesis stage."""

    folder: Path
    where: str
    """The argument that named it, for messages."""

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether a synthesis stage, and not a run, has begun in a folder."""
        return (path / FILE).is_file() and not rundir.is_run(path)

    def resume(self, request: Request, *, dry_run: bool, as_json: bool, anyway: bool = False) -> NoReturn:
        """Refused: only the pipeline knows the stages that it takes from and gives to."""
        self._refuse("--resume")

    def asked(self, request: Request) -> NoReturn:
        """Refused, like `resume`."""
        self._refuse("--resume")

    def like(self, request: Request) -> NoReturn:
        """Refused, like `resume`."""
        self._refuse("--from")

    def _refuse(self, flag: str) -> NoReturn:
        what = f"{self.folder} is a synthesis stage of a pipeline, not a run"
        raise ConfigError(Problem(self.where, what, f"ftcli train {flag} {shell_word(self.folder.parent)}"))

    def records(self) -> list[RunRecord]:
        """None: nothing is trained here."""
        return []

    def report(self, *, as_json: bool) -> None:
        """Print every item with its replies and the resulting row."""
        with rundir.stored(self.folder):
            transcripts(self.folder, rundir.read_result(self.folder), as_json=as_json)
