"""RUN/pushes.json: what of a run has been sent where, with the commit that it became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.core.untrusted.printable import one_line
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


def kept(run: Path) -> Sequence[Mapping[str, Any]] | None:
    """Each push of a run, the oldest first; None where the file is damaged, or of a later version of ftcli."""
    try:
        return read(run)
    except ConfigError:
        return None


def described(run: Path) -> str:
    """Where a run was pushed, on one line for its report: the newest push of each folder to each repository.

    "" where it was not pushed; a damaged file is named, since the rest of a report can be shown without it.
    """
    if (pushes := kept(run)) is None:
        return f"{rundir.PUSHES} is damaged, or of a later version of ftcli"
    newest = {(each.get("endpoint"), each["repository"], each.get("folder")): each for each in pushes}
    return "; ".join(one_line(_line(each)) for each in newest.values())


def _line(push: Mapping[str, Any]) -> str:
    place = "/".join(str(part) for part in (push.get("endpoint"), push["repository"]) if part)
    about = [f"{place} at {push['commit'][:12]}"]
    if push.get("folder"):
        about.append(f"from {push['folder']}")
    if isinstance(push.get("private"), bool):
        about.append("private" if push["private"] else "public")
    if push.get("date"):
        about.append(str(push["date"])[:10])
    return ", ".join(about)


def add(run: Path, push: Mapping[str, Any]) -> None:
    """Note one push more."""
    pushes = [*read(run), dict(push)]
    rundir.write_json(run / rundir.PUSHES, {"schema": rundir.SCHEMAS[rundir.PUSHES], "pushes": pushes})
