"""From token sets to the trainers' datasets: hold-out split, length limit, mixture, packing, and the row ledger.

A row that is too long is dropped, refused, truncated or split as `data.overflow` says, and always counted: nothing
disappears silently, and a run with nothing left to learn does not start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, IterableDataset, disable_progress_bars
from datasets.table import concat_tables

from ftcli.core.errors import DataError, Problem, RowProblem
from ftcli.data import holdout, mixture, row_sets
from ftcli.data.dropped_rows import HELD_OUT, NOT_MIXED, TRUNCATED, DroppedRows
from ftcli.data.row_ledger import BEYOND, OVERFLOW, OVERLONG, UNTRAINED, Ledger, refuse_bad_rows, together
from ftcli.data.scan import Example
from ftcli.methods.method import Method
from ftcli.runs import rundir
from ftcli.settings.groups import DataSettings
from ftcli.worker.tokenise import store
from ftcli.worker.tokenise.duplicates import tell_duplicates_across, tell_leaks
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.length_limits import Fitting, never_ends
from ftcli.worker.tokenise.near_duplicates import tell_near_duplicates
from ftcli.worker.tokenise.packing import packed
from ftcli.worker.tokenise.stream import Stream
from ftcli.worker.tokenise.token_sets import TokenSet, examples_of, token_set
from ftcli.worker.tokenise.truncation import apart, counted, loses_end, parts_of

disable_progress_bars()

_CHUNK = 1000
_REMAP_CHUNKS = 100
"""Chunks after which the tables are mapped again: otherwise every page read so far stays in our resident memory."""
_MOST_REFUSED = 20

Array = np.ndarray[Any, Any]


@dataclass
class Prepared:
    """The data of a run as the trainer takes it."""

    train: Dataset | IterableDataset | None
    held_out: Dataset | None
    held_out_ledger: Ledger | None
    fit: Fitting
    score_examples: list[Example]
    """The first held-out examples, in canonical form, for the method's own metric."""
    set_ledgers: list[Ledger]
    template: dict[str, str] | None = None
    """How conversations were rendered and marked; None if there were none."""
    sets: Sequence[TokenSet] = ()
    """The sets that the rows are of; none of a stream."""

    @property
    def train_ledger(self) -> Ledger | None:
        """What became of the training rows; for a stream, of those read so far."""
        return together(self.set_ledgers, "train") if self.train is not None else None

    def ledger(self) -> dict[str, Any]:
        """What became of all rows, as JSON."""
        ledgers = {"train": self.train_ledger, "eval": self.held_out_ledger}
        sides = {name: ledger.to_dict() if ledger else None for name, ledger in ledgers.items()}
        if len(self.set_ledgers) > 1 and (train := sides["train"]) is not None:
            train["sets"] = [ledger.to_dict() for ledger in self.set_ledgers]
        length = {"value": self.fit.max_length_tokens, "why": self.fit.why}
        about = {"max_length_tokens": length, "overflow": self.fit.overflow, "template": self.template}
        return {"schema": rundir.SCHEMAS[rundir.LEDGER], **sides, **about}


def prepare(
    data: DataSettings,
    method: Method,
    encoder: Encoder,
    fit: Fitting,
    *,
    seed: int,
    num_score_rows: int = 0,
    training: bool = True,
    dropped: DroppedRows | None = None,
) -> Prepared:
    """Read, convert and tokenise the rows of a run.

    Args:
        training: False builds no training set; with `data.eval_path` its rows are not even read.
        dropped: takes every row that is not trained on, and the truncated ones.

    Raises:
        DataError: unusable rows, over-long rows with `data.overflow=error`, or nothing left to train on.
    """
    if data.streaming and training:
        return _streamed(data, method, encoder, fit, seed, num_score_rows, dropped or DroppedRows())
    dropped = dropped or DroppedRows()
    shares = data.eval_path is None and data.eval_share > 0
    validation = None if shares else row_sets.eval_set(data, method)
    named = row_sets.train_sets(data, method) if training or shares or validation is None else ()
    sets = [token_set(each, data, method, encoder, data.max_rows) for each in named]
    held = token_set(validation, data, method, encoder, data.max_eval_rows) if validation else None
    every = [*sets, held] if held else sets
    for each in every:
        dropped.copy(each.ledger.name, "eval" if each is held else "train", each.entry.dropped)
    dropped.flush()
    refuse_bad_rows([each.ledger for each in every], data.max_bad_share)
    fit = fit.resolved(together([each.ledger for each in sets or every], "").lengths)
    builder = _Builder(data, fit, encoder, seed, answers=method.trains_answers, dropped=dropped)
    split_seed = seed if data.split_seed is None else data.split_seed
    held_masks = _held_masks(sets, data, split_seed) if shares else [np.zeros(len(each), bool) for each in sets]
    for each, mask in zip(sets, held_masks, strict=True):
        each.ledger.rows_held_out = int(mask.sum())
        builder.drop(each, np.flatnonzero(mask), "train", HELD_OUT)
    train = builder.train(sets, held_masks) if training else None
    tell_duplicates_across(sets)
    found = Prepared(train, None, None, fit, [], [each.ledger for each in sets], encoder.template(), every)
    if held is not None:
        validated, masks = [held], [np.ones(len(held), bool)]
    elif shares:
        validated, masks = [_only_held_out(each, mask) for each, mask in zip(sets, held_masks, strict=True)], held_masks
    else:
        if training:
            _tell_copies(data, encoder, sets, held_masks)
        dropped.flush()
        return found
    _hold_out(found, builder, validated, masks, data, method, encoder, num_score_rows)
    if training and found.held_out_ledger is not None:
        tell_leaks(found.held_out_ledger, validated, masks, sets, [~mask for mask in held_masks])
        _tell_copies(data, encoder, sets, held_masks, validated, masks, found.held_out_ledger)
    dropped.flush()
    return found


def _tell_copies(
    data: DataSettings, encoder: Encoder, sets: Sequence[TokenSet], held_masks: Sequence[Array], *held: Any
) -> None:
    """Report near-duplicates, where `data.near_duplicates` asks for them; `held` as in `tell_near_duplicates`."""
    if data.near_duplicates is not None:
        special = encoder.tokenizer.added_tokens_decoder
        tell_near_duplicates(data.near_duplicates, special, sets, [~mask for mask in held_masks], *held)


def _streamed(
    data: DataSettings,
    method: Method,
    encoder: Encoder,
    fit: Fitting,
    seed: int,
    num_score_rows: int,
    dropped: DroppedRows,
) -> Prepared:
    """Training rows as a stream; held-out rows from `data.eval_path`, prepared as usual."""
    stream = Stream(row_sets.train_sets(data, method), data, method, encoder, fit, seed, dropped)
    if row_sets.eval_set(data, method) is None:
        return Prepared(stream.dataset(), None, None, stream.fit, [], stream.ledgers, encoder.template())
    how: dict[str, Any] = {"num_score_rows": num_score_rows, "training": False, "dropped": dropped}
    held = prepare(data, method, encoder, stream.fit, seed=seed, **how)
    dropped.keep()
    return replace(held, train=stream.dataset(), set_ledgers=stream.ledgers)


def _only_held_out(tokens: TokenSet, mask: Array) -> TokenSet:
    """A set with a ledger of its held-out rows alone."""
    own = Ledger(tokens.ledger.name, tokens.ledger.path, tokens.ledger.format, rows_read=int(mask.sum()))
    return replace(tokens, ledger=own)


def _hold_out(
    found: Prepared,
    builder: _Builder,
    sets: Sequence[TokenSet],
    masks: Sequence[Array],
    data: DataSettings,
    method: Method,
    encoder: Encoder,
    num_score_rows: int,
) -> None:
    kept = [builder.kept(each, np.flatnonzero(mask), "eval") for each, mask in zip(sets, masks, strict=True)]
    if data.max_eval_rows is not None:
        left = data.max_eval_rows
        for index, (rows, each) in enumerate(zip(kept, sets, strict=True)):
            kept[index] = rows[:left]
            builder.drop(each, rows[left:], "eval", BEYOND)
            left -= len(kept[index])
            each.ledger.dropped[BEYOND] += len(rows) - len(kept[index])
            each.ledger.rows_kept = len(kept[index])
    found.held_out = builder.build(sets, kept, [i for i, rows in enumerate(kept) for _ in rows], "eval")
    found.held_out_ledger = together([each.ledger for each in sets], "eval")
    left = num_score_rows
    for each, rows in zip(sets, kept, strict=True):
        found.score_examples += examples_of(each, data, method, encoder, [int(row) for row in rows[:left]])
        left = num_score_rows - len(found.score_examples)


def _held_masks(sets: Sequence[TokenSet], data: DataSettings, seed: int) -> list[Array]:
    """The held-out mask of each set, drawn over all sets together, so that a group stays on one side across them."""
    groups = np.concatenate([each.group for each in sets]).tolist() if data.eval_group else [0] * sum(map(len, sets))
    drawn = np.array(holdout.held_out(groups, data.eval_share, seed), bool)
    if not drawn.any():
        why = "all rows belong to one group" if len(groups) > 1 else f"there are {len(groups)} rows"
        fix = "give held-out rows with data.eval_path"
        raise DataError(Problem(f"data.eval_share={data.eval_share:g}", f"holds out no row: {why}", fix))
    return np.split(drawn, np.cumsum([len(each) for each in sets])[:-1])


class _Builder:
    """Applies the length limit to the rows of sets, selects among them, and combines them into one dataset."""

    def __init__(
        self, data: DataSettings, fit: Fitting, encoder: Encoder, seed: int, *, answers: bool, dropped: DroppedRows
    ) -> None:
        """`answers`: whether answers are trained, which must end; plain text may lack an end token."""
        self.data, self.fit, self.seed, self.answers, self._dropped = data, fit, seed, answers, dropped
        self.bos = encoder.tokenizer.bos_token_id

    def train(self, sets: Sequence[TokenSet], held: Sequence[Array]) -> Dataset:
        """The rows that are not held out, selected and ordered by the mixture."""
        kept = [self.kept(each, np.flatnonzero(~mask), "train") for each, mask in zip(sets, held, strict=True)]
        order: Sequence[int] = [0] * len(kept[0])
        if self.data.mix is not None:
            demands = [mixture.Demand.of(each.row_set.name, each.row_set.settings) for each in sets]
            sizes = mixture.counts(demands, [len(rows) for rows in kept])
            drawn = [
                rows[mixture.chosen(demand, len(rows), size, self.seed)]
                for rows, demand, size in zip(kept, demands, sizes, strict=True)
            ]
            for each, rows, own in zip(sets, kept, drawn, strict=True):
                self.drop(each, np.setdiff1d(rows, own), "train", NOT_MIXED)
            kept = drawn
            order = mixture.order(sizes, self.data.mix_order)
            for each, rows in zip(sets, kept, strict=True):
                each.ledger.rows_mixed = len(rows)
        if self.answers and any(map(len, kept)) and not any(map(self._any_end, sets, kept)):
            raise DataError(*[never_ends(each.ledger.path, self.fit.overflow) for each in sets])
        return self.build(sets, kept, order, "train")

    def _any_end(self, tokens: TokenSet, rows: Array) -> bool:
        """Whether any of the rows trains an end token."""
        # Of an unrolled conversation the longest example loses its end, and not the others.
        loses = (tokens.length[rows] > self.fit.limit) & (tokens.examples[rows] == 1)
        return bool((tokens.ended[rows] & ~(loses & (self.fit.overflow == "truncate_right"))).any())

    def drop(self, tokens: TokenSet, rows: Array, side: str, reason: str, what: str = "") -> None:
        """Write rows to the file of rows that are not trained on; `what` may name their `{length}`."""
        for row in rows if self._dropped else ():
            said = what.format(length=tokens.length[row])
            self._dropped.add(tokens.row_set.name, side, tokens.where(int(row)), reason, said)

    def kept(self, tokens: TokenSet, rows: Array, side: str) -> Array:
        """The rows that can be trained and fit, or can be made to fit; the ledger counts the others."""
        ledger, limit, overflow = tokens.ledger, self.fit.limit, self.fit.overflow
        untrained = tokens.trained[rows] == 0
        ledger.dropped[UNTRAINED] += int(untrained.sum())
        self.drop(tokens, rows[untrained], side, UNTRAINED)
        rows = rows[~untrained]
        over = tokens.length[rows] > limit
        for row in rows[over]:
            ledger.finding(OVERFLOW, tokens.where(row), "", self.fit.too_long(tokens.length[row]))
        if overflow == "error" and over.any():
            self._refuse(tokens, rows[over])
        if overflow == "drop":
            ledger.dropped[OVERLONG] += int(over.sum())
            self.drop(tokens, rows[over], side, OVERLONG, self._length)
            rows = rows[~over]
        elif overflow != "split" and over.any():
            lost = [row for row, parts in self._cut(tokens, rows[over]) if not parts]
            ledger.dropped[self.fit.lost] += len(lost)
            self.drop(tokens, np.array(lost, int), side, self.fit.lost, self._length)
            rows = rows[~np.isin(rows, lost)]
        ledger.rows_kept += len(rows)
        return rows

    @property
    def _length(self) -> str:
        return self.fit.too_long("{length}")

    def _refuse(self, tokens: TokenSet, rows: Array) -> None:
        fix = "shorten it, or set data.overflow=drop"
        problems: list[Problem] = [
            RowProblem(tokens.where(row), self.fit.too_long(tokens.length[row]), fix) for row in rows[:_MOST_REFUSED]
        ]
        if len(rows) > _MOST_REFUSED:
            problems.append(Problem(tokens.ledger.path, f"and {len(rows) - _MOST_REFUSED} more rows are too long"))
        raise DataError(*problems)

    def _cut(self, tokens: TokenSet, rows: Array) -> Iterator[tuple[int, list[dict[str, list[int]]]]]:
        table = tokens.entry.table()
        for row in rows:
            [columns] = table.fast_slice(int(row), 1).to_pylist()
            yield int(row), parts_of(columns, self.fit.limit, self.fit.overflow, self.bos)

    def build(self, sets: Sequence[TokenSet], picked: Sequence[Array], order: Sequence[int], side: str) -> Dataset:
        """The picked rows of each set as one dataset; counts their tokens.

        Args:
            order: for each position of the result, the index of the set that its row comes from.

        Raises:
            DataError: there is no row.
        """
        if not sum(map(len, picked)):
            raise DataError(*[_nothing_left(each.ledger) for each in sets])
        starts = np.cumsum([0, *[each.entry.num_rows for each in sets]])
        rows = np.empty(len(order), np.int64)
        places = np.asarray(order)
        for index, own in enumerate(picked):
            rows[places == index] = own + starts[index]
        if sum(self._count(*each, side) for each in zip(sets, picked, strict=True)) or self.fit.packing:
            return self._stored(sets, rows)
        whole = Dataset(_tables(sets), fingerprint=store.key_of([each.entry.key for each in sets])[:16])
        whole = whole.select_columns([name for name in whole.column_names if name != "examples"])  # all are single
        return whole if np.array_equal(rows, np.arange(len(whole))) else whole.select(rows)

    def _count(self, tokens: TokenSet, rows: Array, side: str) -> bool:
        """Count the tokens of the picked rows; returns whether any of them has to be truncated, split or unrolled."""
        ledger, over = tokens.ledger, tokens.length[rows] > self.fit.limit
        if self.fit.packs_whole:
            over[:] = False
        whole = rows[~over]
        ledger.tokens += int(tokens.total[whole].sum(dtype=np.int64))
        ledger.trained_tokens += int(tokens.trained[whole].sum(dtype=np.int64))
        ledger.sequences += int(tokens.examples[whole].sum(dtype=np.int64))
        unrolled = rows[tokens.examples[rows] > 1]
        sizes = (each[unrolled].sum(dtype=np.int64) for each in (tokens.examples, tokens.total, tokens.length))
        ledger.unroll(len(unrolled), *map(int, sizes))
        table: Any = tokens.entry.table() if over.any() else None
        if self.fit.overflow != "split":
            self.drop(tokens, np.unique(rows[over]), side, TRUNCATED, self._length)
        for row in rows[over]:
            [columns] = table.fast_slice(int(row), 1).to_pylist()
            pieces = parts_of(columns, self.fit.limit, self.fit.overflow, self.bos)
            lost = loses_end(columns, self.fit.limit, self.fit.overflow) and bool(tokens.ended[row])
            ledger.cut(self.fit.overflow, lost)
            for piece in pieces:
                ledger.sequence(*counted(piece)[1:])
        return bool(over.any()) or len(unrolled) > 0

    def _stored(self, sets: Sequence[TokenSet], rows: Array) -> Dataset:
        """Rows that differ from those of the sets (truncated, split or packed), as a store entry of their own."""
        fit = self.fit
        picked = hashlib.sha256(rows.tobytes()).hexdigest()
        keys = [each.entry.key for each in sets]
        key = store.key_of([keys, picked, fit.limit, fit.overflow, fit.packing, self.bos])

        def build(write: store.Write) -> tuple[dict[str, Any], pa.Table]:
            tables = self._fitted(sets, rows)
            batches = packed(tables, fit.limit, fit.packing) if fit.packing else _batches(tables)
            for batch in batches:
                write(batch)
            return {}, pa.table({})

        entry = store.entry(key, build)
        if fit.packing and sets:
            sets[0].ledger.packed += entry.num_rows  # a block may hold rows of several sets; only the total is shown
        return Dataset(entry.table(), fingerprint=key[:16])

    def _fitted(self, sets: Sequence[TokenSet], rows: Array) -> Iterator[pa.Table]:
        """The rows in order, truncated or split where necessary, a chunk at a time."""
        whole: Dataset | None = None
        for number, at in enumerate(range(0, len(rows), _CHUNK)):
            if number % _REMAP_CHUNKS == 0:
                whole = Dataset(_tables(sets), fingerprint="rows").with_format("arrow")
            assert whole is not None
            table: pa.Table = whole[rows[at : at + _CHUNK]]
            yield self._cut_table(table)

    def _cut_table(self, table: pa.Table) -> pa.Table:
        unrolls, whole = "examples" in table.column_names, self.fit.packs_whole
        columns = table.to_pylist() if unrolls or not whole else []
        if not unrolls and all(counted(row)[0] <= self.fit.limit for row in columns):
            return table
        fitted: list[dict[str, list[int]]] = []
        for row in columns:
            long = not whole and counted(row)[0] > self.fit.limit
            fitted += parts_of(row, self.fit.limit, self.fit.overflow, self.bos) if long else apart(row)
        return pa.Table.from_pylist(fitted, schema=pa.schema([f for f in table.schema if f.name != "examples"]))


def _tables(sets: Sequence[TokenSet]) -> Any:
    tables = [each.entry.table() for each in sets if each.entry.num_rows]
    return tables[0] if len(tables) == 1 else concat_tables(tables)


def _batches(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        yield from table.combine_chunks().to_batches()


def _nothing_left(ledger: Ledger) -> Problem:
    reasons = ", ".join(f"{count} {reason}" for reason, count in ledger.dropped.items() if count)
    what = f"no row is left of {ledger.rows_read}" + (f" ({reasons})" if reasons else "")
    return Problem(ledger.path, what, "raise data.max_length_tokens, or give other rows")
