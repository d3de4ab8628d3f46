"""One set of rows as tokens: scanned, encoded, and stored with an index of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ftcli.core.errors import DataError, Problem
from ftcli.data.dropped_rows import unusable
from ftcli.data.files.locate import DataFile
from ftcli.data.files.reader import place_text
from ftcli.data.formats.columns import SOFT_LABEL
from ftcli.data.row_ledger import Ledger
from ftcli.data.row_sets import RowSet, fetched
from ftcli.data.scan import Example, Scan
from ftcli.methods.method import Method
from ftcli.settings.groups import DataSettings
from ftcli.worker.process import interruption
from ftcli.worker.process.activity import phase
from ftcli.worker.tokenise import store
from ftcli.worker.tokenise.encoder import Encoded, Encoder
from ftcli.worker.tokenise.store import OPTIONAL
from ftcli.worker.tokenise.truncation import Columns, counted, laid_out

_CHUNK = 2000
_NUMBERS = ("margin", *SOFT_LABEL)
"""What a pair of answers says of itself beside its texts."""
_LIST = pa.list_(pa.int32())
_TYPES = {"margin": pa.float32(), "row": pa.string(), **OPTIONAL}
_INDEX = {
    "length": pa.int32(),
    "total": pa.int32(),
    "trained": pa.int32(),
    "examples": pa.int32(),
    "ended": pa.bool_(),
    "digest": pa.uint64(),
    "asked": pa.uint64(),
    "alike": pa.uint64(),
    "asked_alike": pa.uint64(),
    "group": pa.uint64(),
    "file": pa.int32(),
    "number": pa.int64(),
    "line": pa.int64(),
    "in_array": pa.bool_(),
}


@dataclass(frozen=True)
class TokenSet:
    """The usable rows of a set, with an array entry per row, each array of shape (rows,): tokens of its longest
    sequence (`length`), of all its sequences (`total`) and trained ones (`trained`), how many training `examples` it is
    (1 unless it is an unrolled conversation), whether its answers `ended`, the hashes of scan.Example (`digest` of the
    row, `asked` of its prompt, `alike` and `asked_alike` of their normalised texts, `group`), and where it came from:
    the index of its `file` and its running `number` there, which identify it, and for its place its `line` and whether
    it is `in_array`."""

    row_set: RowSet
    files: tuple[DataFile, ...]
    entry: store.Entry
    ledger: Ledger
    length: np.ndarray[Any, Any]
    total: np.ndarray[Any, Any]
    trained: np.ndarray[Any, Any]
    examples: np.ndarray[Any, Any]
    ended: np.ndarray[Any, Any]
    digest: np.ndarray[Any, Any]
    asked: np.ndarray[Any, Any]
    alike: np.ndarray[Any, Any]
    asked_alike: np.ndarray[Any, Any]
    group: np.ndarray[Any, Any]
    file: np.ndarray[Any, Any]
    number: np.ndarray[Any, Any]
    line: np.ndarray[Any, Any]
    in_array: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.length)

    def where(self, index: int) -> str:
        """The place of a row, as errors print it."""
        name = self.files[self.file[index]].name
        return place_text(name, int(self.line[index]), int(self.number[index]), bool(self.in_array[index]))


def token_set(row_set: RowSet, data: DataSettings, method: Method, encoder: Encoder, max_rows: int | None) -> TokenSet:
    """The tokens of a set, from the store or encoded now.

    Raises:
        DataError: unusable rows, if `data.max_bad_share` allows none; or no row at all.
        ConfigError: the files are missing, or the store cannot be written.
    """
    files = fetched(row_set)
    key = store.key_of(_parts(row_set, data, method, encoder, max_rows), files)
    with phase(f"tokenising {row_set.name}"):
        entry = store.entry(key, TokenSetBuild(row_set, files, data, method, encoder, max_rows).build)
    index, ledger = entry.index(), Ledger.from_base(entry.meta["ledger"])
    if entry.meta["spoken"]:
        encoder.serving  # noqa: B018 - loads the template as rendering would, so that the ledger describes it
    arrays = {name: index.column(name).to_numpy() for name in _INDEX}
    ledger.name = row_set.name
    ledger.lengths.update(
        dict(zip(*(a.tolist() for a in np.unique(arrays["length"], return_counts=True)), strict=True))
    )
    return TokenSet(row_set, files, entry, ledger, **arrays)


def _parts(row_set: RowSet, data: DataSettings, method: Method, encoder: Encoder, max_rows: int | None) -> Any:
    """Everything that the tokens depend on besides the bytes of the rows, our code and the libraries."""
    settings = row_set.settings
    return {
        "reading": [
            settings.format,
            settings.delimiter,
            settings.columns,
            settings.roles,
            settings.margin_column,
            settings.trained_turns,
            data.eval_group,
            max_rows,
        ],
        "method": [method.kinds, method.refuses_bare, method.weights, method.soft_labels, settings.template],
        "encoder": encoder.identity(),
    }


@dataclass
class TokenSetBuild:
    """Builds an entry: rows for the store, with a ledger and an index."""

    row_set: RowSet
    files: tuple[DataFile, ...]
    data: DataSettings
    method: Method
    encoder: Encoder
    max_rows: int | None

    def build(self, write: store.Write) -> tuple[dict[str, Any], pa.Table]:
        """As store.Build."""
        ledger = Ledger(self.row_set.name, self.row_set.path)
        ledger.on_unusable = lambda problem: write.dropped(unusable(problem))
        how: dict[str, Any] = {"max_rows": self.max_rows, "has_template": self.encoder.has_template}
        scan = Scan(self.files, self.row_set.settings, self.method, ledger, self.data.eval_group, **how)
        chunk: list[tuple[Example, Encoded]] = []
        indices: list[pa.Table] = []
        spoken = False

        def flush() -> None:
            if chunk:
                write(batch_of([row.columns for _, row in chunk]))
                indices.append(_index(chunk))
                chunk.clear()

        for number, (example, found) in enumerate(encoded(self.encoder, scan, ledger)):
            interruption.reached(number, None, "rows")
            chunk.append((example, found))
            spoken = spoken or example.kind == "messages" or isinstance(example.value.get("prompt"), list)
            if len(chunk) == _CHUNK:
                flush()
        flush()
        index = pa.concat_tables(indices) if indices else pa.table({n: pa.array([], t) for n, t in _INDEX.items()})
        return {"ledger": ledger.to_dict(), "spoken": spoken}, index


def _index(chunk: Sequence[tuple[Example, Encoded]]) -> pa.Table:
    lengths = [counted(row.columns) for _, row in chunk]
    values: dict[str, list[Any]] = {
        "length": [length for length, _, _ in lengths],
        "total": [total for _, total, _ in lengths],
        "trained": [trained for _, _, trained in lengths],
        "examples": [len(row.columns.get("examples", "1")) for _, row in chunk],
        "ended": [row.ended for _, row in chunk],
    }
    for name in ("digest", "asked", "alike", "asked_alike", "group", "file", "number", "line", "in_array"):
        values[name] = [getattr(example, name) for example, _ in chunk]
    return pa.table({name: pa.array(values[name], kind) for name, kind in _INDEX.items()})


def encoded(
    encoder: Encoder, examples: Iterable[Example], ledger: Ledger, on_error: Callable[[], None] = lambda: None
) -> Iterator[tuple[Example, Encoded]]:
    """The examples that can be encoded, with their tokens; the ledger records the others, and all findings."""
    for example, found in encoder.encode_all(examples):
        if isinstance(found, DataError):
            ledger.unusable(found.problems[0])
            on_error()
            continue
        if found.earlier:
            found.columns = laid_out([*found.earlier, found.columns])
        for finding in found.findings:
            ledger.finding(finding.kind, example.where, finding.field, finding.what)
        found.columns |= {name: example.value[name] for name in _NUMBERS if name in example.value}
        if example.row_weight != 1:
            _weigh(found.columns, example.row_weight)
        yield example, found


def _weigh(columns: Columns, weight: float) -> None:
    """Multiply the losses of a row, or of its trained tokens, by a weight."""
    if "input_ids" in columns:
        of_turns = columns.get("weights") or [1.0] * len(columns["labels"])
        columns["weights"] = [weight * own for own in of_turns]
    else:
        columns["row_weight"] = weight


def batch_of(rows: Sequence[Columns]) -> pa.RecordBatch:
    """Rows of one dataset type, at least one, as columns of token lists; `margin` is a number, and `row` is text.

    The optional columns are only there if a row has one; they are null where a row has none.
    """
    names = [*rows[0], *(name for name in OPTIONAL if name not in rows[0] and any(name in row for row in rows))]
    return pa.record_batch({name: pa.array([row.get(name) for row in rows], _TYPES.get(name, _LIST)) for name in names})


def examples_of(
    found: TokenSet, data: DataSettings, method: Method, encoder: Encoder, wanted: Sequence[int]
) -> list[Example]:
    """The examples of the wanted row numbers, read again from the files.

    Raises:
        DataError: a file has changed in the meantime.
    """
    places = {(int(found.file[index]), int(found.number[index])): index for index in wanted}
    last = max(wanted, default=-1)
    has_template = encoder.has_template
    scan = Scan(found.files, found.row_set.settings, method, Ledger("", ""), data.eval_group, has_template=has_template)
    examples: dict[int, Example] = {}
    for example in scan:
        index = places.get((example.file, example.number))
        if index is not None:
            examples[index] = example
        if len(examples) == len(places) or (index is not None and index >= last):
            break
    if len(examples) < len(places):
        raise DataError(Problem(found.ledger.path, "changed while it was read", "start again"))
    return [examples[index] for index in wanted]
