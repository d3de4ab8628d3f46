"""`tokens`: the tokens of each row as a run would train on it, for `ftcli recipe import --prove`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ftcli.core.errors import DataError, Problem
from ftcli.data import row_sets
from ftcli.data.files.reader import line_of
from ftcli.data.row_ledger import Ledger
from ftcli.data.scan import Scan
from ftcli.methods import Method
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.commands.data import opened
from ftcli.worker.process.command import lines
from ftcli.worker.tokenise.encoder import IGNORED, Encoder
from ftcli.worker.tokenise.length_limits import Fitting
from ftcli.worker.tokenise.truncation import Columns, apart, counted, laid_out, parts_of, trains


def tokens(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a run's one set, a file of JSON lines, in order.

    Args:
        request: {"spec": a run spec as JSON text, "whole": whether rows are left uncut, since blocks are cut from the
            joined rows}.

    Yields:
        {"line", "sequences": name → {"ids", "trained"}, "cut"}, or {"line", "dropped": why}; `line` counts from 1.

    Raises:
        ConfigError: the model has no tokenizer or configuration here.
        DataError: the rows have no format that the method can use.
    """
    spec, method, encoder, fit = opened(request)
    read, dropped = _read(spec, method, encoder)
    limit = _limit(fit, read)
    if request["whole"]:
        limit = replace(limit, max_length_tokens=max(1, *(counted(row)[0] for _, row in read)))
    fitted = [(line, _fitted(row, limit, encoder)) for line, row in read]
    yield from sorted([*_lines(dropped), *({"line": line, **row} for line, row in fitted)], key=_line)


def _read(spec: RunSpec, method: Method, encoder: Encoder) -> tuple[list[tuple[int, Columns]], list[Problem]]:
    """The tokens of the rows that can be used, each with its line, and what is wrong with the others."""
    [row_set] = row_sets.train_sets(spec.data, method)
    dropped, read = list[Problem](), list[tuple[int, Columns]]()
    how: dict[str, Any] = {"on_error": dropped.append, "has_template": encoder.has_template, "prompts": False}
    ledger = Ledger(row_set.name, row_set.path)
    for example in Scan(row_sets.fetched(row_set), row_set.settings, method, ledger, normalises=False, **how):
        try:
            [encoded] = encoder.encode([example])
        except DataError as error:
            dropped.append(error.problems[0])
            continue
        read.append((line_of(example.where), laid_out([*encoded.earlier, encoded.columns])))
    return read, dropped


def _limit(fit: Fitting, read: list[tuple[int, Columns]]) -> Fitting:
    return fit.resolved(Counter(counted(row)[0] for _, row in read) or Counter([1]))


def _lines(dropped: list[Problem]) -> Iterator[dict[str, Any]]:
    return ({"line": line_of(problem.where), "dropped": problem.what} for problem in dropped)


def _line(row: dict[str, Any]) -> int:
    return int(row["line"])


def _fitted(row: Columns, fit: Fitting, encoder: Encoder) -> dict[str, Any]:
    """A row as it is trained: cut, split or dropped where it is too long."""
    if counted(row)[2] == 0:
        return {"dropped": "no token of it is trained"}
    long = counted(row)[0] > fit.limit
    if long and fit.overflow in ("drop", "error"):
        return {"dropped": fit.too_long(counted(row)[0])}
    parts = parts_of(row, fit.limit, fit.overflow, encoder.tokenizer.bos_token_id) if long else apart(row)
    if not any(map(trains, parts)):
        return {"dropped": "cut to its length no token of it is trained"}
    sequences = [each for part in parts for each in _sequences(part)]
    many = len(parts) > 1
    named = {f"part {number}" if many else name: each for number, (name, each) in enumerate(sequences, 1)}
    return {"sequences": named, "cut": long}


def _sequences(part: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    if "input_ids" in part:
        yield "", {"ids": part["input_ids"], "trained": [label != IGNORED for label in part["labels"]]}
        return
    prompt, sides = part["prompt_ids"], {"chosen": part["chosen_ids"], "rejected": part["rejected_ids"]}
    labelled = not all(sides.values())
    names = {"chosen": "desirable", "rejected": "undesirable"} if labelled else {side: side for side in sides}
    for side, answer in sides.items():
        if answer:
            yield names[side], {"ids": prompt + answer, "trained": [False] * len(prompt) + [True] * len(answer)}


COMMAND = lines(tokens, "reading rows")
