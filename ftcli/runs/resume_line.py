"""The line that says how a run is resumed, with what has to be typed again.

Grants count on the command line alone, and where a machine meets the others is its own: neither is read from the folder
of a run, so whoever resumes it gives them again.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from ftcli.core.text import shell_word
from ftcli.runs import rundir

VARIABLE = "FTCLI_TYPED_AGAIN"
"""By which a worker knows what the command that started it was given."""


def remember(words: Sequence[str]) -> None:
    """Keep what of this command line a resume needs too, for this process and its workers."""
    if words:
        os.environ[VARIABLE] = shlex.join(words)
    else:
        os.environ.pop(VARIABLE, None)


def resume_with(folder: Path) -> str:
    """The command that resumes a run, or the pipeline that it is a stage of, for a message."""
    words = ["--resume", str(rundir.whole(folder)), *shlex.split(os.environ.get(VARIABLE, ""))]
    return " ".join(["resume with: ftcli train", *map(shell_word, words)])
