"""The file that `ftcli generate --to FILE` writes: a line a prompt, in batches, gone on with after a stop or a kill.

While it is unfinished, FILE.begun beside it says what it answers and how; the same command goes on after the last whole
batch, and the batches that follow are those that nobody interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, DiskError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir

BEGUN = ".begun"
MOST_BYTES = 1 << 30
"""Of a file that is gone on with."""


@dataclass(frozen=True)
class AnswerFile:
    """Where answers go, and what they answer."""

    file: Path
    how: Mapping[str, Any]
    """The model, its sampling, and the size of a batch: answers depend on nothing else."""
    prompts: Sequence[str]

    @property
    def begun(self) -> Path:
        """Says what an unfinished file answers."""
        return self.file.with_name(self.file.name + BEGUN)

    def open(self, batch_size: int) -> int:
        """Begin the file, or cut an unfinished one to its whole batches. Returns how many prompts are answered.

        Raises:
            ConfigError: the file is finished, or was begun otherwise.
            DiskError: it cannot be written.
        """
        digest = hashlib.sha256(json.dumps(list(self.prompts)).encode()).hexdigest()
        own = {**self.how, "prompts": digest}
        where = f"--to {self.file}"
        try:
            if not os.path.lexists(self.begun):
                if os.path.lexists(self.file):
                    raise ConfigError(Problem(where, "already exists", "remove it, or name another file"))
                self.file.parent.mkdir(parents=True, exist_ok=True)
                rundir.write_json(self.begun, own)
                self.file.touch(exist_ok=False)
                return 0
            known = foreign_files.read_json(self.begun)
            if known != own:
                other = [key for key in own if not isinstance(known, dict) or known.get(key) != own[key]]
                what = f"was begun with other {', '.join(other)}"
                fix = f"use those again, or remove it and {self.begun.name}"
                raise ConfigError(Problem(where, what, fix))
            lines = (
                foreign_files.read_bytes(self.file, MOST_BYTES).splitlines(keepends=True) if self.file.exists() else []
            )
            whole = len([line for line in lines if line.endswith(b"\n")]) // batch_size * batch_size
            with self.file.open("ab") as file:
                file.truncate(sum(map(len, lines[:whole])))
            return whole
        except OSError as error:
            raise DiskError.of(error) from None
        except ValueError as error:
            raise ConfigError(
                Problem(where, f"cannot be gone on with: {error}", "remove it, or name another")
            ) from None

    def write(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Add answers as they come, and mark the file as finished after the last.

        Raises:
            DiskError: it cannot be written.
        """
        try:
            with self.file.open("a", encoding="utf-8") as file:
                for each in answers:
                    file.write(json.dumps(each, ensure_ascii=False) + "\n")
                    file.flush()
            self.begun.unlink()
        except OSError as error:
            raise DiskError.of(error) from None
