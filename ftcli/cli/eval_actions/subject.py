"""The run or model that `ftcli eval` measures, and where what was measured is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.build import gate
from ftcli.cli import output
from ftcli.cli.generate import check_model
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.evaluations import record
from ftcli.models import sources
from ftcli.runs import provenance, rundir
from ftcli.settings.run_spec import RunSpec


@dataclass(frozen=True)
class Measured:
    """What is measured: a finished run, or a model without one."""

    name: str
    """For the worker: a run's folder, or the model as it was named."""
    run: Path | None
    spec: RunSpec | None = None
    """The run's."""


def measured(name: str, command: str, grants: frozenset[str], acts: Sequence[str] = ()) -> Measured:
    """The run or model of that name.

    Args:
        command: as it was typed, for errors.
        grants: the flags of this command line.
        acts: the groups of a run's spec that are acted on.

    Raises:
        ConfigError: there is none, it is not finished, or its folder is damaged or in use.
    """
    run = None if sources.is_model_folder(name) else rundir.find_run(name)
    if run is None:
        check_model(name, command)
        return Measured(name, None)
    spec = gate.opened(run, grants, acts)
    rundir.require_free(run)
    if sources.model_source(str(run)) is None:
        what, fix = f"{run} has no model yet", f"finish it with ftcli train --resume {shell_word(rundir.whole(run))}"
        raise ConfigError(Problem(command, what, fix))
    check_model(str(run), command)
    return Measured(str(run), run, spec)


def finish(subject: Measured, kind: str, found: Mapping[str, Any], *, as_json: bool) -> None:
    """Keep what was measured in the run, and print it."""
    file: Path | None = None
    if subject.run is not None:
        try:
            file = record.keep(subject.run, kind, found)
        except OSError as error:  # the run may be another user's
            output.warn(f"not kept in {subject.run}: {error.strerror or error}")
    if as_json:
        own = provenance.of_model(subject.name)
        output.data({"kind": kind, **found, **({} if own is None else {provenance.KEY: own})})
        return
    output.say(str(found["title"]))
    output.table(record.rows(found["lines"]))
    output.say(record.intervals_of(found["lines"]))
    if file is not None:
        output.note(f"kept in {file}; ftcli report {shell_word(str(subject.run))} shows it")
