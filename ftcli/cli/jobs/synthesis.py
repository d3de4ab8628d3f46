"""A stage that makes data, by its folder: its transcripts can be read, and it goes on with its pipeline only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ftcli.cli.jobs.job import JobFolder
from ftcli.cli.render.transcripts import transcripts
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, Problem
from ftcli.runs import rundir
from ftcli.synthesis.synthesis_spec import FILE


@dataclass(frozen=True)
class SynthesisFolder(JobFolder):
    """The folder of a data-making stage."""

    folder: Path
    where: str
    """What named it, for messages."""

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether a data-making stage, and no run, has begun in a folder."""
        return (path / FILE).is_file() and not rundir.is_run(path)

    def resume(self, request: Request, *, dry_run: bool, as_json: bool) -> NoReturn:
        """Refused: what it takes and who takes from it stands in pipeline.json."""
        self._refuse("--resume")

    def like(self, request: Request) -> NoReturn:
        """Refused, as `resume`."""
        self._refuse("--from")

    def _refuse(self, flag: str) -> NoReturn:
        what = f"{self.folder} is not a run but a stage that makes data, and goes with its pipeline"
        raise ConfigError(Problem(self.where, what, f"ftcli train {flag} {self.folder.parent}"))

    def report(self, *, as_json: bool) -> None:
        """Print every item, what was replied and what came of it."""
        transcripts(self.folder, rundir.read_result(self.folder), as_json=as_json)
