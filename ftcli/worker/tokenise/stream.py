"""Streaming: rows are read, tokenised, shuffled and mixed while training, and nothing is stored.

The stream has no end: each set starts again when it has been read, in another order. So it is one epoch of
`train.max_steps`, every process sees the same rows in the same order and takes its own part of each batch, and a
resumed run skips what it has seen by reading the same stream again.

Unusable rows are only found during training, long after the weights were loaded: more than `data.max_bad_share` of the
rows read so far stop the run there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from random import Random
from typing import Any

import pyarrow as pa
from datasets import IterableDataset

from ftcli.core.errors import DataError, Problem, RowProblem
from ftcli.data.dropped_rows import TRUNCATED, DroppedRows
from ftcli.data.files.locate import DataFile
from ftcli.data.row_ledger import OVERFLOW, UNTRAINED, Ledger, refuse_bad_rows
from ftcli.data.row_sets import RowSet, fetched
from ftcli.data.scan import Example, Scan
from ftcli.methods.method import Method
from ftcli.settings.groups import DataSettings
from ftcli.worker.tokenise.encoder import Encoded, Encoder
from ftcli.worker.tokenise.length_limits import Fitting, never_ends
from ftcli.worker.tokenise.packing import packed
from ftcli.worker.tokenise.token_sets import batch_of, encoded
from ftcli.worker.tokenise.truncation import Columns, apart, counted, loses_end, parts_of

_SAMPLE_ROWS = 1000
"""Rows per set from whose lengths `auto` is derived; also the minimum to read before the share of bad rows counts."""
_PACKED_ROWS = 1000


@dataclass
class _Source:
    """One set of the stream."""

    row_set: RowSet
    files: tuple[DataFile, ...]
    ledger: Ledger
    share: float


class Stream:
    """The training rows of a run as they are read; a new iteration starts at the first row again."""

    def __init__(
        self,
        sets: Sequence[RowSet],
        data: DataSettings,
        method: Method,
        encoder: Encoder,
        fit: Fitting,
        seed: int,
        dropped: DroppedRows | None = None,
    ) -> None:
        self.data, self.method, self.encoder, self.seed = data, method, encoder, seed
        self._dropped = dropped or DroppedRows()
        self.bos = encoder.tokenizer.bos_token_id
        self._sources = [self._source(each, len(sets)) for each in sets]
        needs_sample = fit.max_length_tokens is None or method.trains_answers
        self.fit = fit.resolved(self._sampled_lengths(fit)) if needs_sample else fit

    @property
    def ledgers(self) -> list[Ledger]:
        """One ledger per set of the rows read so far; only the first pass over a set is counted."""
        return [source.ledger for source in self._sources]

    def dataset(self) -> IterableDataset:
        """The stream as trainers take it."""
        return IterableDataset.from_generator(self._rows)

    def _source(self, row_set: RowSet, num_sets: int) -> _Source:
        share = row_set.settings.share_of_mix or 1 / num_sets
        return _Source(row_set, fetched(row_set), Ledger(row_set.name, row_set.path), share)

    def _sampled_lengths(self, fit: Fitting) -> dict[int, int]:
        """{length: rows} of the first rows of each set.

        Raises:
            DataError: they contain answers, and none of them ends.
        """
        lengths: dict[int, int] = {}
        ends = False
        for source in self._sources:
            apart = replace(source, ledger=Ledger("", ""))
            for _, row in islice(self._encoded(apart, None), _SAMPLE_ROWS):
                length = counted(row.columns)[0]
                lengths[length] = lengths.get(length, 0) + 1
                ends |= row.ended
        if self.method.trains_answers and lengths and not ends:
            raise DataError(*[never_ends(source.row_set.path, fit.overflow) for source in self._sources])
        return lengths

    # --- from the files to the trainer -------------------------------------------------------------------------------

    def _rows(self) -> Iterator[dict[str, Any]]:
        for source in self._sources:
            source.ledger.begin_again()
            source.ledger.on_unusable = partial(self._dropped.unusable, source.row_set.name, "train")
        self._dropped.begin_again()
        streams = [self._endless(source) for source in self._sources]
        mixed = streams[0] if len(streams) == 1 else _interleaved(streams, [s.share for s in self._sources])
        if self.fit.packing is None:
            yield from mixed
            return
        for batch in packed(_tables(mixed), self.fit.limit, self.fit.packing):
            yield from batch.to_pylist()

    def _endless(self, source: _Source) -> Iterator[Columns]:
        """The set again and again: only the first pass is counted, and each has its own order."""
        for turn in count():
            apart = source if turn == 0 else replace(source, ledger=Ledger("", ""))
            rows = 0
            random = Random(f"{self.seed} {source.row_set.name} {turn}")
            for columns in self._fitted(apart, random):
                rows += 1
                yield columns
            if not rows:
                what = "has no row that can be trained on"
                raise DataError(Problem(source.row_set.path, what, "see ftcli data check"))

    def _fitted(self, source: _Source, random: Random) -> Iterator[Columns]:
        """The rows in an order drawn by `random`, fitted to the length limit and counted."""
        ledger, limit, overflow = source.ledger, self.fit.limit, self.fit.overflow
        for example, row in self._encoded(source, random):
            length, total, trained = counted(row.columns)
            ledger.lengths[length] += 1
            parts = apart(row.columns)
            if not trained:
                ledger.dropped[UNTRAINED] += 1
                self._drop(source, example, UNTRAINED)
                continue
            if length > limit and not self.fit.packs_whole:
                what = self.fit.too_long(length)
                ledger.finding(OVERFLOW, example.where, "", what)
                if overflow == "error":
                    raise DataError(RowProblem(example.where, what, "shorten it, or set data.overflow=drop"))
                parts = [] if overflow == "drop" else parts_of(row.columns, limit, overflow, self.bos)
                if not parts:
                    ledger.dropped[self.fit.lost] += 1
                    self._drop(source, example, self.fit.lost, what)
                    continue
                if overflow != "split":
                    self._drop(source, example, TRUNCATED, what)
                ledger.cut(overflow, row.ended and loses_end(row.columns, limit, overflow))
            ledger.rows_kept += 1
            if row.earlier:
                ledger.unroll(1, len(row.earlier) + 1, total, length)
            for part in parts:
                ledger.sequence(*counted(part)[1:])
                yield part

    def _drop(self, source: _Source, example: Example, reason: str, what: str = "") -> None:
        """Write a row that is not trained on; of the first pass only, as the ledger counts."""
        if any(source is own for own in self._sources):
            self._dropped.add(source.row_set.name, "train", example.where, reason, what)
            self._dropped.flush()

    def _encoded(self, source: _Source, random: Random | None) -> Iterator[tuple[Example, Encoded]]:
        """The usable rows with their tokens; without `random` in their own order."""
        ledger = source.ledger
        how: dict[str, Any] = {"max_rows": self.data.max_rows, "has_template": self.encoder.has_template}
        scan = Scan(source.files, source.row_set.settings, self.method, ledger, **how)
        scan.on_error = lambda problem: self._judge(ledger)
        # Shuffled before they are tokenised: to fill the buffer, rows only have to be read.
        examples = _shuffled(iter(scan), self.data.shuffle_buffer_rows, random) if random else scan
        return encoded(self.encoder, examples, ledger, lambda: self._judge(ledger))

    def _judge(self, ledger: Ledger) -> None:
        """Stop if too many of the rows read so far are unusable; a handful of rows says little about a share.

        Raises:
            DataError: the first unusable rows.
        """
        if ledger.rows_bad > self.data.max_bad_share * max(ledger.rows_read, _SAMPLE_ROWS):
            refuse_bad_rows([ledger], self.data.max_bad_share)


def _shuffled(rows: Iterator[Example], size: int, random: Random) -> Iterator[Example]:
    """Each row drawn from those that a buffer of `size` holds."""
    buffer = list(islice(rows, size))
    for row in rows:
        index = random.randrange(len(buffer))
        yield buffer[index]
        buffer[index] = row
    random.shuffle(buffer)
    yield from buffer


def _interleaved(streams: Sequence[Iterator[Columns]], shares: Sequence[float]) -> Iterator[Columns]:
    """Streams mixed by their shares: the one furthest behind comes next, so every prefix keeps the shares."""
    given = [0] * len(streams)
    for place in count(1):
        index = max(range(len(streams)), key=lambda i: shares[i] * place - given[i])
        given[index] += 1
        yield next(streams[index])


def _tables(rows: Iterator[Columns]) -> Iterator[pa.Table]:
    while chunk := list(islice(rows, _PACKED_ROWS)):
        yield pa.Table.from_batches([batch_of(chunk)])
