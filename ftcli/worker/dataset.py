"""Token rows to the data sets that the trainers take, and a ledger of what became of every row.

A row that is too long is dropped, refused, cut or split as `data.overflow` says, and always counted: nothing
disappears in silence, and a run with nothing left to learn does not start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable

from ftcli import sources
from ftcli.errors import ConfigError, DataError, Problem
from ftcli.methods.base import Method
from ftcli.settings import DataSettings
from ftcli.worker import rows
from ftcli.worker.rows import Example
from ftcli.worker.tokens import IGNORED, Encoded, Encoder, encode_all

_CHUNK = 1000
_OVERLONG, _UNTRAINED = "longer than data.max_length_tokens", "no token to train"


@dataclass
class Ledger:
    """What became of the rows of one data set."""

    path: str
    format: str
    rows_read: int = 0
    rows_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    split: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """How many rows read had so many tokens, before anything was dropped or cut."""

    def to_dict(self) -> dict[str, Any]:
        """The ledger as JSON; `length_tokens` holds quantiles over the rows read."""
        return {
            "path": self.path,
            "format": self.format,
            "rows_read": self.rows_read,
            "rows_kept": self.rows_kept,
            "dropped": dict(self.dropped),
            "truncated": self.truncated,
            "split": self.split,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "length_tokens": self._quantiles(),
        }

    def _quantiles(self) -> dict[str, int]:
        reached, cumulative = 0, []
        for length, count in sorted(self.lengths.items()):
            reached += count
            cumulative.append((reached, length))
        wanted = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        return {
            name: next(length for below, length in cumulative if below > q * (reached - 1))
            for name, q in wanted.items()
            if cumulative
        }


@dataclass(frozen=True)
class Fitting:
    """How rows are made to fit: the limit in tokens and what happens beyond it."""

    max_length_tokens: int
    overflow: str
    packs_whole: bool = False
    """Rows go to a packer that cuts them itself."""


@dataclass
class Prepared:
    """The data of a run as the trainer takes it."""

    train: Dataset | None
    held_out: Dataset | None
    train_ledger: Ledger | None
    held_out_ledger: Ledger | None
    score_examples: list[Example]
    """The first held-out examples, canonical, for the method's own score."""

    def ledger(self) -> dict[str, Any]:
        """Both ledgers as JSON."""
        ledgers = {"train": self.train_ledger, "eval": self.held_out_ledger}
        return {name: ledger.to_dict() if ledger else None for name, ledger in ledgers.items()}


def fitting(data: DataSettings, method: Method, config: Any, position_limit: int | None) -> Fitting:
    """The length limit and overflow of a run, where the spec leaves them open."""
    default = min(position_limit or method.default_max_length_tokens, method.default_max_length_tokens)
    overflow = method.overflow if data.overflow == "auto" else data.overflow
    if overflow == "split" and method.task == "preference":
        what = f"{method.name} compares whole answers, which cannot be split"
        raise ConfigError(Problem("data.overflow", what, "use drop, error or truncate_right"))
    whole = bool(getattr(config, "packing", False)) and config.packing_strategy in ("wrapped", "bfd_split")
    return Fitting(data.max_length_tokens or default, overflow, whole)


def prepare(
    data: DataSettings,
    method: Method,
    encoder: Encoder,
    fit: Fitting,
    *,
    seed: int,
    num_score_rows: int = 0,
    training: bool = True,
) -> Prepared:
    """Read, convert and tokenise the rows of a run.

    Args:
        training: False reads the held-out rows only.

    Raises:
        DataError: unusable rows, over-long ones where they are refused, or nothing left to train on.
    """
    train_file, eval_file = sources.train_file(data, method), sources.eval_file(data, method)
    shared: frozenset[int] = frozenset()
    if data.eval_path is None and data.eval_share > 0:
        eval_file = train_file
        shared = rows.held_out(rows.count_rows(train_file, data.max_rows), data.eval_share, seed)
    make = partial(_Maker, data=data, method=method, encoder=encoder, fit=fit)
    train = make(file=train_file).build(data.max_rows, lambda i: i not in shared) if training else None
    if eval_file is None:
        return Prepared(train[0] if train else None, None, train[1] if train else None, None, [])
    maker = make(file=eval_file, num_examples=num_score_rows, limit_kept=data.max_eval_rows)
    kept = (lambda i: i in shared) if shared else (lambda i: True)
    held_out = maker.build(data.max_rows if shared else data.max_eval_rows, kept)
    return Prepared(train[0] if train else None, held_out[0], train[1] if train else None, held_out[1], maker.examples)


class _Maker:
    """Builds one data set from one file."""

    def __init__(
        self,
        file: Any,
        data: DataSettings,
        method: Method,
        encoder: Encoder,
        fit: Fitting,
        num_examples: int = 0,
        limit_kept: int | None = None,
    ) -> None:
        self.file, self.data, self.method, self.encoder, self.fit = file, data, method, encoder, fit
        self.num_examples, self.limit_kept = num_examples, limit_kept
        self.examples: list[Example] = []
        self.ledger = Ledger(str(file), rows.format_name(file, data, method))

    def build(self, limit: int | None, belongs: Callable[[int], bool]) -> tuple[Dataset, Ledger]:
        """The data set of those of the first `limit` rows that belong to it."""
        every = enumerate(rows.read_examples(self.file, self.data, self.method, limit))
        mine = islice((example for index, example in every if belongs(index)), self.limit_kept)
        table = _table(self._fitted(mine))
        if table is None or self.ledger.trained_tokens == 0:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.ledger.dropped.items())
            what = f"no row is left of {self.ledger.rows_read}" + (f" ({reasons})" if reasons else "")
            raise DataError(Problem(str(self.file), what, "raise data.max_length_tokens, or give other rows"))
        return Dataset(InMemoryTable(table)), self.ledger

    def _fitted(self, examples: Iterator[Example]) -> Iterator[Encoded]:
        ledger = self.ledger
        for example, row in encode_all(self.encoder, examples):
            ledger.rows_read += 1
            ledger.lengths[_length(row)] += 1
            parts = self._fit(example, row)
            if not parts:
                continue
            if len(self.examples) < self.num_examples:
                self.examples.append(example)
            ledger.rows_kept += 1
            for part in parts:
                total, trained = _count(part)
                ledger.tokens += total
                ledger.trained_tokens += trained
            yield from parts

    def _fit(self, example: Example, row: Encoded) -> list[Encoded]:
        """The row as it is, cut, in pieces, or not at all."""
        limit, overflow = self.fit.max_length_tokens, self.fit.overflow
        if not _count(row)[1]:
            return self._drop(_UNTRAINED)
        if _length(row) <= limit or (overflow == "split" and self.fit.packs_whole):
            return [row]
        if overflow == "drop":
            return self._drop(_OVERLONG)
        if overflow == "error":
            what = f"is {_length(row)} tokens long; data.max_length_tokens is {limit}"
            raise DataError(Problem(example.where, what, "shorten it, or set data.overflow=drop"))
        if overflow == "split":
            self.ledger.split += 1
            parts = [{name: ids[at : at + limit] for name, ids in row.items()} for at in range(0, _length(row), limit)]
            return [part for part in parts if _count(part)[1]]
        cut = _cut(row, limit)
        if not _count(cut)[1]:
            return self._drop(_UNTRAINED)
        self.ledger.truncated += 1
        return [cut]

    def _drop(self, reason: str) -> list[Encoded]:
        self.ledger.dropped[reason] += 1
        return []


def _length(row: Encoded) -> int:
    """Tokens of the longest sequence that the row becomes."""
    if "input_ids" in row:
        return len(row["input_ids"])
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _count(row: Encoded) -> tuple[int, int]:
    """Tokens that are read and tokens that are trained; a pair with an empty side trains nothing."""
    if "input_ids" in row:
        # The first token has nothing before it to be predicted from.
        return len(row["input_ids"]), sum(label != IGNORED for label in row["labels"][1:])
    answers = [len(row["chosen_ids"]), len(row["rejected_ids"])]
    return 2 * len(row["prompt_ids"]) + sum(answers), sum(answers) if all(answers) else 0


def _cut(row: Encoded, limit: int) -> Encoded:
    if "input_ids" in row:
        return {name: ids[:limit] for name, ids in row.items()}
    room = max(0, limit - len(row["prompt_ids"]))
    return {**row, "chosen_ids": row["chosen_ids"][:room], "rejected_ids": row["rejected_ids"][:room]}


def _table(rows_: Iterator[Encoded]) -> pa.Table | None:
    """The rows as columns of int32 lists, built in chunks so that few Python lists live at once."""
    kind = pa.list_(pa.int32())
    tables = []
    while chunk := list(islice(rows_, _CHUNK)):
        tables.append(pa.table({name: pa.array([row[name] for row in chunk], type=kind) for name in chunk[0]}))
    return pa.concat_tables(tables) if tables else None
