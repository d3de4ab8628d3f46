"""Scan a data set: its rows, one by one, as the method needs them; unusable and suspicious rows go to the ledger.

`ftcli data check`, a plan and a run all read rows this way, so that all three report the same.
"""

from __future__ import annotations

import marshal
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, pairwise
from typing import Any, NamedTuple

from ftcli.core.errors import DataError, Problem, RowProblem
from ftcli.data.files.locate import DataFile
from ftcli.data.files.reader import Row, place_text, read_rows
from ftcli.data.formats import registry
from ftcli.data.formats.columns import SOFT_LABEL, column
from ftcli.data.formats.conversations import last_trained
from ftcli.data.formats.text_form import NO_PROMPT, TextForm, as_text, as_turns, is_text, text_form
from ftcli.data.formats.unread_columns import remedy, speakers, unheard
from ftcli.data.normalised_text import normalised_value
from ftcli.data.quality_checks import quality_issues
from ftcli.data.row_ledger import ALIKE, DUPLICATE, UNREAD, Ledger
from ftcli.data.row_numbers import margin_of, row_weight_of, soft_label_of
from ftcli.data.set_format import SAMPLE_ROWS, SetFormat, as_read, rewarded, set_format
from ftcli.methods.method import Method
from ftcli.settings.groups import SetSettings


class Example(NamedTuple):
    """One canonical row: its place (file:line), its dataset type and its columns (see data/formats/registry.py).

    `digest` is equal for equal rows, `asked` for equal prompts, and `group` for equal values of `data.eval_group`;
    `asked` is 0 without a prompt, and `group` is 0 without groups. `alike` and `asked_alike` are `digest` and
    `asked` of the normalised texts. What identifies the row in its set is never its place, but `file`, the index of its
    file, and `number`, its running number there (see reader.Row). `from_text` says that its turns were written as plain
    text, `row_weight` what the row weighs in the loss, and `unroll` that each of its trained turns is to be a training
    example of its own in any case.
    """

    where: str
    kind: str
    value: dict[str, Any]
    digest: int = 0
    asked: int = 0
    group: int = 0
    file: int = 0
    number: int = 0
    line: int = 0
    in_array: bool = False
    from_text: bool = False
    alike: int = 0
    asked_alike: int = 0
    row_weight: float = 1.0
    unroll: bool = False


class _LimitReached(Exception):
    """`max_rows` rows were read, the last of them an unreadable one."""


@dataclass
class Scan:
    """Iterates over the usable rows of a set, and records all others in the ledger."""

    files: Sequence[DataFile]
    settings: SetSettings
    method: Method
    ledger: Ledger
    group: str | None = None
    """Column whose value `Example.group` stands for."""
    max_rows: int | None = None
    """The most rows to read, usable or not."""
    max_usable: int | None = None
    on_error: Callable[[Problem], None] | None = None
    prompts: bool = True
    """Whether to compute `Example.asked` and `Example.asked_alike`."""
    has_template: bool = False
    """Whether the model's tokenizer has a chat template, through which `data.template` sends text."""
    normalises: bool = True
    """Whether to compare normalised texts too; without it, `Example.alike` and `Example.asked_alike` are 0."""
    unheard_roles: list[str] = field(default_factory=list, init=False)
    """Names of `settings.roles` that no usable row has had so far."""
    _num_read: int = field(default=0, init=False)
    _format: SetFormat | None = field(default=None, init=False)
    _form: TextForm = field(default=NO_PROMPT, init=False)
    _sample: list[tuple[int, Row | Problem]] | None = field(default=None, init=False)
    """The first rows and the unreadable ones among them, until they have decided the format; each with the index of its
    file."""
    _unread: dict[str, tuple[str, str | None] | None] = field(default_factory=dict, init=False)
    """The columns that the format does not read: their names in the file and remedies; None where others read them."""
    _digests: array[int] = field(default_factory=lambda: array("Q"), init=False)
    _alike: array[int] = field(default_factory=lambda: array("Q"), init=False)
    _lines: array[int] = field(default_factory=lambda: array("q"), init=False)
    _indices: array[int] = field(default_factory=lambda: array("q"), init=False)
    """The running numbers of the usable rows in arrays only: elsewhere no place shows them."""
    _starts: list[tuple[int, int, int | None]] = field(default_factory=list, init=False)
    """For each file with usable rows, how many there are before it, its index, and where its part of `_indices` starts,
    if it is an array. With `_lines`, a row's place takes eight bytes, not a string."""

    def __iter__(self) -> Iterator[Example]:
        """Reads rows lazily, the first of them together, since they decide the format.

        Raises:
            DataError: the rows match no supported format or have a dataset type that the method cannot use, a file
                cannot be read further, or there is no row.
            ConfigError: `settings.columns` or the group names a column that does not exist.
        """
        always, self.unheard_roles = self.method.refuses_bare, list(self.settings.roles or ())
        self._form = text_form(self.settings.template, has_template=self.has_template, always=always)
        usable = 0
        for file, row in self._rows():
            if isinstance(row, Problem):
                self._refuse(row)
                continue
            example = self._example(row, file)
            if example is not None:
                usable += 1
                yield example
            if usable == self.max_usable:
                break
        self._report_duplicates()

    def _rows(self) -> Iterator[tuple[int, Row | Problem]]:
        """At most `max_rows` rows, each with the index of its file; unreadable ones among the first in their place."""
        self._num_read, self._sample = 0, []
        rows = self._read()
        failure = None
        try:
            for each in rows:
                self._sample.append(each)
                if len(self._sample) >= SAMPLE_ROWS:
                    break
        except DataError as error:  # the file cannot be read further: those before it are given first
            failure = error
        first, self._sample = self._sample, None
        given = [row for _, row in first if isinstance(row, Row)]
        if given and self._format is None:
            self._format = set_format(given, self.settings, self.method)
        if self._format is not None:
            self.ledger.format = self._format.format.name
        yield from first
        if failure is not None:
            raise failure
        yield from rows

    def _read(self) -> Iterator[tuple[int, Row]]:
        """The rows of all files, at most `max_rows` together with the unreadable ones."""
        try:
            # Unreadable rows do not come out of `read_rows`: it reports them to `_unreadable` on the way.
            for index, file in enumerate(self.files):
                for row in read_rows(file, self._unreadable):
                    self._num_read += 1
                    yield index, row
                    if self._num_read == self.max_rows:
                        return
        except _LimitReached:
            pass

    def _unreadable(self, problem: Problem) -> None:
        """Called by the reader for a row that it cannot read, before it goes on to the next one."""
        self._num_read += 1
        if self._sample is not None and len(self._sample) < SAMPLE_ROWS:
            self._sample.append((0, problem))
        else:
            self._refuse(problem)
        if self._num_read == self.max_rows:  # only an exception can stop the reader from here
            raise _LimitReached

    def _refuse(self, problem: Problem) -> None:
        """Count a row as unusable."""
        self.ledger.error(problem)
        if self.on_error is not None:
            self.on_error(problem)

    def _example(self, row: Row, file: int) -> Example | None:
        """The row as an example; None if it is unusable, which the ledger then says."""
        if self.group and self.group not in row.value:
            what = f"has no column {self.group!r} to group by; its columns are {', '.join(row.value)}"
            self._refuse(RowProblem(row.where, what, "name another column in data.eval_group", field=self.group))
            return None
        given = row  # as in the file; `row` may have its columns renamed
        chosen = self._format
        assert chosen is not None  # `_rows` found it before it gave the first row
        fmt = chosen.format
        try:
            row = as_read(row, self.settings)
            seen = chosen.seen(row)
            if seen.others and (problem := chosen.problem(row, seen)):
                raise DataError(problem)
            kind, value, form = converted(fmt, row, self.method, self.settings.roles, self._form)
            if self.settings.margin_column:
                value = {**value, "margin": margin_of(given, self.settings.margin_column)}
            if (label := soft_label_of(row, self.method, self.settings.margin_column)) is not None:
                value = {**value, SOFT_LABEL[0]: label}
            weight = row_weight_of(row, self.method)
        except DataError as error:
            self._refuse(self._as_written(error.problems[0], given))
            return None
        self.ledger.rows_read += 1
        if self.unheard_roles:
            self.unheard_roles = unheard(dict.fromkeys(self.unheard_roles, ""), speakers(row.value))
        if form is not None:
            self.ledger.text_forms[form.about] += 1
        for issue in quality_issues(fmt, row.value, value, plain=row.plain):
            self.ledger.finding(issue.kind, row.where, self._field(issue.field), issue.what)
        if fmt.kind == "preference" and not self.method.soft_labels and (name := column(row.value, SOFT_LABEL)):
            self.ledger.unread_column("", self._field(name), None)  # the pair itself says which answer is better
        if seen.unread != ():
            for name in chosen.unread(row, seen):
                self._report_unread(fmt, row, name)
        if self.settings.trained_turns == "last":
            value = last_trained(value)
        unroll = self.settings.trained_turns == "unroll"
        # Duplicates are compared after conversion, so that equal rows match across formats.
        digest = _number(value)
        self._remember(digest, row, file)
        group = _number(given.value[self.group]) if self.group else 0
        asked = _prompt_digest(value) if self.prompts else 0
        alike = asked_alike = 0
        if self.normalises:
            normalised = normalised_value(value)
            alike = _number(normalised)
            self._alike.append(alike)
            asked_alike = _prompt_digest(normalised) if self.prompts else 0
        as_turns, at = form is not None and form.as_turns, row.where
        place = (file, row.number, row.line, row.in_array)
        return Example(at, kind, value, digest, asked, group, *place, as_turns, alike, asked_alike, weight, unroll)

    def _remember(self, digest: int, row: Row, file: int) -> None:
        """Keep what is needed to report a later duplicate of this row, or this row as one."""
        if not self._starts or self._starts[-1][1] != file:
            self._starts.append((len(self._digests), file, len(self._indices) if row.in_array else None))
        self._digests.append(digest)
        self._lines.append(row.line)
        if row.in_array:
            self._indices.append(row.number)

    def _field(self, field: str) -> str:
        """A field path under its name in the file."""
        name = re.match(r"[^.\[]*", field)[0]  # type: ignore[index]
        return (self.settings.columns or {}).get(name, name) + field[len(name) :]

    def _as_written(self, problem: Problem, row: Row) -> RowProblem:
        """A problem whose field has its name in the file."""
        mapped = self.settings.columns or {}
        named = problem.field if isinstance(problem, RowProblem) else ""
        if not named:  # no single field is at fault: name the first needed column that this row lacks
            needed = self._format.needed if self._format else ()
            wanted = [*mapped.values(), *(mapped.get(name, name) for name in needed)]
            named = next((name for name in wanted if row.value.get(name) is None), "")
            return RowProblem(problem.where, problem.what, problem.fix, field=named)
        written, what = self._field(named), problem.what
        if written != named and what.startswith(named):
            what = written + what[len(named) :]
        return RowProblem(problem.where, what, problem.fix, field=written)

    def _place(self, index: int) -> str:
        """The place of a usable row by its index among them."""
        first, file, indices = self._starts[bisect_right(self._starts, index, key=lambda start: start[0]) - 1]
        number = self._indices[indices + index - first] if indices is not None else 0
        return place_text(self.files[file].name, self._lines[index], number, indices is not None)

    def _report_duplicates(self) -> None:
        for index, first in repeated(self._digests):
            self.ledger.finding(DUPLICATE, self._place(index), "", f"is the same as {self._place(first)}")
        for index, first in repeated(self._alike, beside=self._digests):
            self.ledger.finding(
                ALIKE, self._place(index), "", f"is written a little differently in {self._place(first)}"
            )

    def _report_unread(self, fmt: registry.Format, row: Row, name: str) -> None:
        """Count a column of a usable row that nobody reads; one that means something is a finding of the set."""
        if name not in self._unread:
            self._unread[name] = self._unread_as(fmt, name)
        if (found := self._unread[name]) is not None:
            self.ledger.unread_column(row.where if found[1] else "", *found)

    def _unread_as(self, fmt: registry.Format, name: str) -> tuple[str, str | None] | None:
        """The name in the file of a column that the format does not read, and its remedy; None if others read it."""
        written = (self.settings.columns or {}).get(name, name)
        for_rewards = rewarded(fmt, self.method)
        fix = remedy(fmt, name, written, for_rewards)
        read_by_others = (fix is None and for_rewards) or written in (self.settings.margin_column, self.group)
        return None if read_by_others else (written, fix)


def converted(
    fmt: registry.Format, row: Row, method: Method, roles: dict[str, str] | None, form: TextForm
) -> tuple[str, dict[str, Any], TextForm | None]:
    """Dataset type and columns of a row as the method needs it, and how its text is read (None: it is no text pair).

    Args:
        form: how the set's text pairs and prompts are read.

    Raises:
        DataError: the row cannot be used.
    """
    value = registry.convert(fmt, row, wanted=method.kinds, roles=roles)
    kind = registry.converted_type(fmt.kind, method.kinds)
    assert kind is not None  # `_recognised` refused the set otherwise
    if not is_text(value):
        return kind, value, None
    if kind == "preference" and column(row.value, ("prompt",)) is None:
        form = NO_PROMPT  # the prompt is the beginning that both texts share, which may reach into the answers
    return kind, as_turns(kind, value) if form.as_turns else value, form


def read_as_turns(example: Example) -> Example:
    """An example whose text, if it is a text pair or prompt, is read as turns."""
    if not is_text(example.value):
        return example
    return example._replace(value=as_turns(example.kind, example.value), from_text=True)


def as_written(example: Example) -> dict[str, Any]:
    """The columns of an example as its row has them: text that is read as turns is text again."""
    return as_text(example.kind, example.value) if example.from_text else example.value


def _number(value: Any) -> int:
    """A 64-bit digest, equal for equal plain values in every process and on every machine; never 0."""
    try:
        plain = marshal.dumps(value, 2)  # version 2 writes values only, without references
    except ValueError:  # a date or a decimal from a parquet file
        plain = repr(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(plain, digest_size=8).digest(), "big") | 1


def _prompt_digest(value: dict[str, Any]) -> int:
    """The digest of a row's prompt; 0 for plain text, which has none."""
    if "prompt" in value:
        return _number(value["prompt"])
    turns = value.get("messages")
    return _number([turn for turn in turns if turn["role"] != "assistant"]) if turns else 0


def repeated(digests: array[int], beside: array[int] | None = None) -> list[tuple[int, int]]:
    """Indices of repeated rows in order, each with the index of the first equal row.

    Args:
        beside: other digests of the same rows; a row that repeats one of these is left out.
    """
    # Sorted first, since a mapping of all digests takes three times the memory, and few rows are repeated.
    twice = {digest for digest, following in pairwise(sorted(digests)) if digest == following}
    first: dict[int, int] = {}
    found = [
        (index, own)
        for index, digest in enumerate(digests)
        if digest in twice and (own := first.setdefault(digest, index)) != index
    ]
    if not found or beside is None:
        return found
    exact = {index for index, _ in repeated(beside)}
    return [(index, own) for index, own in found if index not in exact]


def first_rows(files: Sequence[DataFile], count: int = SAMPLE_ROWS) -> list[Row]:
    """The first readable rows of a set's files, as written there.

    Raises:
        DataError: none can be read.
    """
    faults: list[Problem] = []
    rows: list[Row] = []

    def unreadable(problem: Problem) -> None:
        faults.append(problem)
        if rows and len(rows) + len(faults) >= count:
            raise _LimitReached

    with suppress(_LimitReached):
        for row in chain.from_iterable(read_rows(file, unreadable) for file in files):
            rows.append(row)
            if len(rows) + len(faults) >= count:
                break
    if not rows:
        raise DataError(*faults[:1])
    return rows


def unread_columns(files: Sequence[DataFile], settings: SetSettings, method: Method) -> list[str]:
    """What the first rows of a set lose: each column that means something and is not read, with its remedy.

    Raises:
        DataError: as `Scan`.
    """
    ledger = Ledger("", "")
    for _ in Scan(files, settings, method, ledger, max_rows=SAMPLE_ROWS, prompts=False, normalises=False):
        pass
    return [f"{one['where']}  column {one['field']} {one['what']}" for one in ledger.shown(UNREAD)]
