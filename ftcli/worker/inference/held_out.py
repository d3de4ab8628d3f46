"""The rows that a run held out, as training prepared them: read, left out and limited in length by the run's own rule.

Whatever is measured or compared on them afterwards takes them from here, so that every command sees the same rows and
says the same of those that do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.data import row_sets
from ftcli.data.row_ledger import OVERLONG, UNTRAINED
from ftcli.data.scan import Example
from ftcli.methods import get_method
from ftcli.runs import rundir
from ftcli.settings.groups import as_saved
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.models.load import position_limit
from ftcli.worker.process.own_lines import say
from ftcli.worker.tokenise.dataset import Prepared, prepare
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.length_limits import fitting


class HeldOut(NamedTuple):
    """Rows that a run held out."""

    examples: Sequence[Example]
    limit: int
    """The most tokens of a row that the run reads."""


class _Unpacked:
    """The part of a trainer's config that rows depend on; they are looked at one by one."""

    packing = False


def are_there(spec: RunSpec) -> bool:
    """Whether a run holds rows out."""
    return row_sets.holds_out(spec.data, get_method(str(spec.method["name"])))


def held_out(spec: RunSpec, run: Path, encoder: Encoder, most: int, *, data: str | None = None) -> HeldOut:
    """The first held-out rows of a run; how many do not fit is said.

    Args:
        spec: the run's, with the permissions of this command.
        most: how many, at most.
        data: a file of rows in place of them, which are read and limited as they are.

    Raises:
        ConfigError: the run holds none out.
        DataError: unusable rows, over-long ones with `data.overflow=error`, or none that fits.
    """
    method = get_method(str(spec.method["name"]))
    spec = at_its_length(spec, run)
    rows = replace(spec.data, streaming=False)
    if data is not None:
        rows = replace(rows, eval_path=data, eval_share=0.0)
    if not row_sets.holds_out(rows, method):
        raise ConfigError(Problem(str(run), "the run has no held-out rows", "name a file of rows with --data FILE"))
    fit = fitting(rows, method, _Unpacked(), position_limit(as_saved(spec.model, str(run))))
    found = prepare(rows, method, encoder, fit, seed=spec.seed, num_score_rows=most, training=False)
    _tell_left_out(found)
    return HeldOut(found.score_examples[:most], found.fit.limit)


def at_its_length(spec: RunSpec, run: Path) -> RunSpec:
    """The spec with the length limit that the run derived from its training rows, if it did."""
    try:
        length = foreign_files.read_json(run / rundir.LEDGER)["max_length_tokens"]["value"]
    except (OSError, ValueError, LookupError, TypeError):
        return spec
    return replace(spec, data=replace(spec.data, max_length_tokens=length))


def _tell_left_out(found: Prepared) -> None:
    ledger = found.held_out_ledger
    assert ledger is not None
    for reason in (OVERLONG, UNTRAINED):
        if count := ledger.dropped[reason]:
            limit = f" ({found.fit.limit})" if reason == OVERLONG else ""
            say(f"{count} of {ledger.rows_read} held-out rows left out: {reason}{limit}")
