"""`preview`: rows as the model sees them, for `ftcli data preview`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ftcli.core.errors import ConfigError, DataError, Problem
from ftcli.data import row_sets
from ftcli.data.files.reader import index_of, line_of
from ftcli.data.formats.text_form import form_of
from ftcli.data.row_ledger import Ledger, together
from ftcli.data.row_sets import RowSet
from ftcli.data.scan import Example, Scan
from ftcli.methods import Method
from ftcli.worker.commands.data import opened
from ftcli.worker.inference.trained_tokens import pieces, sequences
from ftcli.worker.process.command import lines
from ftcli.worker.tokenise.encoder import Encoded, Encoder
from ftcli.worker.tokenise.length_limits import Fitting


@dataclass(frozen=True)
class _Start:
    """Where a preview begins in each file."""

    line: int | None
    index: int | None

    def reached(self, place: str) -> bool:
        """Whether a row's place is the first one to show, or after it."""
        index = index_of(place)
        if self.index is not None and (index is None or index < self.index):
            return False
        return self.line is None or line_of(place) >= self.line

    def problem(self) -> Problem:
        """Why no row was shown."""
        if self.index is not None:
            what = "no JSON array of the data has a row of that index"
            return Problem(f"--index {self.index}", what, "give the index in a row's place, or --line for other files")
        fix = "give a line that the file has; of a JSON array on one line, choose a row by --index"
        return Problem(f"--line {self.line}" if self.line is not None else "", "no row starts there or later", fix)


def preview(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows as the model sees them.

    Args:
        request: as for `data`, with "rows", how many per set, and "line" and "index", the first line and the first
            index in a JSON array to show, each or None.

    Yields:
        {"where", "kind", "sequences": [{"name", "tokens": [[text, trained, special], …]}], "tokens", "trained",
        "row_weight", "max_length_tokens", "examples"}, where `trained` is false, true, or the token's weight in the
        loss if its turn has another than 1; or {"where", "error", "fix"} for a row that cannot be used; last
        {"template", "format", "findings", "forms": how the rows are read, as phrases}.

    Raises:
        ConfigError: as `data`; or no row is that far into its file.
    """
    spec, method, encoder, fit = opened(request)
    ledgers, forms, num_shown = [], dict[str, None](), 0
    start = _Start(request.get("line"), request.get("index"))
    for row_set in row_sets.train_sets(spec.data, method):
        ledgers.append(Ledger(row_set.name, row_set.path))
        for row in islice(_rows(row_set, method, encoder, fit, ledgers[-1], forms, start), request["rows"]):
            num_shown += 1
            yield row
    if not num_shown:
        raise ConfigError(start.problem())
    whole = together(ledgers, "")
    findings = {kind: shown.first for kind, shown in whole.findings.items()}
    yield {
        "template": encoder.template(),
        "format": whole.format,
        "findings": findings,
        "forms": [*forms, *whole.text_forms],
    }


def _rows(
    row_set: RowSet,
    method: Method,
    encoder: Encoder,
    fit: Fitting,
    ledger: Ledger,
    forms: dict[str, None],
    start: _Start,
) -> Iterator[dict[str, Any]]:
    """The rows of a set from a place on, including unusable ones; `forms` gets how those are read that are no text pair
    or prompt."""
    bad = list[Problem]()
    how: dict[str, Any] = {"on_error": bad.append, "has_template": encoder.has_template}
    for example in Scan(row_sets.fetched(row_set), row_set.settings, method, ledger, **how):
        if (form := form_of(example.kind, example.value)) and not example.from_text:
            forms[form] = None
        yield from (_refused(problem) for problem in bad if start.reached(problem.where))
        bad.clear()
        if not start.reached(example.where):
            continue
        try:
            [encoded] = encoder.encode([example])
            yield _shown(encoder, example, encoded, fit)
        except DataError as error:
            yield _refused(error.problems[0])
    yield from (_refused(problem) for problem in bad if start.reached(problem.where))


def _refused(problem: Problem) -> dict[str, Any]:
    return {"where": problem.where, "error": problem.what, "fix": problem.fix}


def _shown(encoder: Encoder, example: Example, encoded: Encoded, fit: Fitting) -> dict[str, Any]:
    special = frozenset(encoder.tokenizer.added_tokens_decoder)
    examples = [*encoded.earlier, encoded.columns]
    found = [
        each
        for number, columns in enumerate(examples, 1)
        for each in sequences(columns, f"example {number} of {len(examples)}" if encoded.earlier else "")
    ]
    return {
        "where": example.where,
        "kind": example.kind,
        "sequences": [
            {"name": name, "tokens": pieces(encoder.tokenizer, ids, marks, special)} for name, ids, marks in found
        ],
        "tokens": max(len(ids) for _, ids, _ in found),
        "trained": sum(sum(map(bool, marks)) for _, _, marks in found),
        "row_weight": example.row_weight,
        "max_length_tokens": fit.max_length_tokens,
        "examples": len(encoded.earlier) + 1,
        "findings": [finding.what for finding in encoded.findings],
    }


COMMAND = lines(preview, "reading rows")
