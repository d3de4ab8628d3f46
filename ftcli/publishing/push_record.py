"""RUN/pushes.json: what of a run has been sent where, with the commit that it became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir


def read(run: Path) -> Sequence[Mapping[str, Any]]:
    """Each push of a run, the oldest first.

    Raises:
        ConfigError: the file has not the form that ftcli writes.
    """
    file = run / rundir.PUSHES
    try:
        found = foreign_files.read_json(file)
        rundir.require_known_schema(file, found)
        pushes = found["pushes"]
        if not all(isinstance(each["repository"], str) and isinstance(each["commit"], str) for each in pushes):
            raise ValueError("it names no commits")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(Problem(str(file), f"is damaged: {error}", "remove it, or put back what it was")) from None
    return [dict(each) for each in pushes]


def add(run: Path, push: Mapping[str, Any]) -> None:
    """Note one push more."""
    pushes = [*read(run), dict(push)]
    rundir.write_json(run / rundir.PUSHES, {"schema": rundir.SCHEMAS[rundir.PUSHES], "pushes": pushes})
