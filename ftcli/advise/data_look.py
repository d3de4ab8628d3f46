"""What is seen in the rows: their dataset type, how many, how long, what repeats, and what could be checked by a rule.

Lengths are estimates, since no tokenizer is chosen yet; the plan of a way counts with that of its model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ftcli.core.errors import ConfigError, DataError, Problem
from ftcli.data import row_sets
from ftcli.data.files.reader import Row
from ftcli.data.formats.columns import HISTORY, SYSTEM, Format, column, is_nothing
from ftcli.data.formats.registry import DATASET_TYPES, FORMATS
from ftcli.data.row_ledger import ALIKE, DUPLICATE, Ledger, quantiles
from ftcli.data.row_sets import RowSet
from ftcli.data.scan import Example, Scan, first_rows
from ftcli.data.set_format import as_read
from ftcli.methods import get_method
from ftcli.models.templates.answer_forms import REASONING
from ftcli.settings.groups import SetSettings

MOST_ROWS = 20_000
"""Rows that are looked at; a larger set is judged by its first ones."""
BYTES_PER_TOKEN = 4.0  # estimate: English text under vocabularies of 32k and more
SHORT_ANSWER = 12
"""Tokens of the median answer up to which answers are short."""
ANSWER_COLUMNS = ("answer", "solution", "ground_truth", "final_answer", "target", "label", "reference", "output")
"""Columns that rows of prompts keep the right answer in."""
_NUMBER = re.compile(r"\s*(.*####)?\s*[-+]?\$?[\d,]*\.?\d+%?\.?\s*", re.DOTALL)
_FEW_WORDS, _FEW_LETTERS = 5, 40
NUMBER, EXACT = "number", "exact_answer"
"""The rules of `method.rewards` by which answers can be checked."""


@dataclass(frozen=True, kw_only=True)
class Checkable:
    """How the answers of a set can be checked by a rule."""

    rule: str
    """A rule of `method.rewards`."""
    column: str
    """The column of the right answer."""


@dataclass(frozen=True, kw_only=True)
class DataLook:
    """What is seen in one set of rows."""

    path: str
    format: str
    kind: str
    """The dataset type."""
    rows: int
    """Usable rows that were looked at."""
    unusable: int
    whole: bool
    """Whether all rows were looked at."""
    duplicates: int
    """Rows that repeat an earlier one, also where they are written a little differently."""
    repeated_prompts: float
    """Share of the rows whose prompt occurs earlier."""
    prompt_tokens: Mapping[str, int]
    """Quantiles of the prompts' lengths (estimate)."""
    answer_tokens: Mapping[str, int]
    """Quantiles of the answers' lengths, the chosen ones of pairs; of all of it for plain text (estimate)."""
    turns: int
    """Assistant turns of the longest conversation."""
    tools: int
    """Rows with tools or calls."""
    calls: int
    """Rows in which the assistant calls a tool."""
    reasoning: int
    """Rows whose answers have reasoning before them."""
    thoughts: int
    """Those of them in which it stands apart from the answer, so that the chat template has to write it."""
    good: int
    """Rows that are labelled good; 0 where there are no labels."""
    findings: Mapping[str, int]
    """Quality checks that rows failed."""
    unread: tuple[str, ...]
    """Columns that hold something which the format does not read."""
    as_prompts: Mapping[str, Any] | None
    """Settings with which the same rows are read as prompts; None where that would lose a part of them."""
    checkable: Checkable | None

    @property
    def short(self) -> bool:
        """Whether half of the answers have a few tokens only."""
        return self.answer_tokens.get("p50", 0) <= SHORT_ANSWER


def looked(row_set: RowSet) -> DataLook:
    """What is seen in a set; reads its first rows, up to MOST_ROWS.

    Raises:
        DataError: no row can be used.
        ConfigError: there are no such files.
    """
    files = row_sets.fetched(row_set)
    every_type = replace(get_method("sft"), kinds=tuple(DATASET_TYPES))
    ledger, seen = Ledger(row_set.name, row_set.path), _Seen()
    scan = Scan(files, row_set.settings, every_type, ledger, max_rows=MOST_ROWS)
    for example in scan:
        seen.add(example)
    if not seen.kind:
        faults = [Problem(one["where"], one["what"], one["fix"]) for one in ledger.errors[:3]]
        raise DataError(*(faults or [Problem(row_set.path, "holds no row", "name a set with rows")]))
    sample = [as_read(row, row_set.settings) for row in _readable(first_rows(files), row_set.settings)]
    fmt = FORMATS[ledger.format]
    findings = {kind: shown.rows for kind, shown in ledger.findings.items()}
    duplicates = findings.pop(DUPLICATE, 0) + findings.pop(ALIKE, 0)
    return DataLook(
        path=row_set.path,
        format=fmt.name,
        kind=seen.kind,
        rows=seen.rows,
        unusable=ledger.rows_bad,
        whole=seen.rows + ledger.rows_bad < MOST_ROWS,
        duplicates=duplicates,
        repeated_prompts=1 - len(seen.asked) / seen.rows if seen.asked else 0.0,
        prompt_tokens=quantiles(seen.prompts),
        answer_tokens=quantiles(seen.answers),
        turns=seen.turns,
        tools=seen.tools,
        calls=seen.calls,
        reasoning=seen.reasoning,
        thoughts=seen.thoughts,
        good=seen.good,
        findings=findings,
        unread=tuple(ledger.unread),
        as_prompts=prompt_settings(fmt, sample, row_set.settings),
        checkable=checkable_of(fmt, sample, row_set.settings),
    )


def only_set(path: Any, settings: SetSettings) -> RowSet:
    """The set that `data.path` names.

    Raises:
        ConfigError: it names none.
    """
    if not path:
        raise ConfigError(
            Problem("data.path", "names no rows: a method is advised for those that are at hand", "add data.path=FILE")
        )
    return RowSet(name="data", key="data.path", settings=settings)


def _readable(rows: Sequence[Row], settings: SetSettings) -> Iterator[Row]:
    for row in rows:
        try:
            as_read(row, settings)
        except DataError:
            continue
        yield row


@dataclass
class _Seen:
    """Counts over the rows that were looked at."""

    kind: str = ""
    rows: int = 0
    turns: int = 0
    tools: int = 0
    calls: int = 0
    reasoning: int = 0
    thoughts: int = 0
    good: int = 0
    asked: set[int] = field(default_factory=set)
    prompts: Counter[int] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)

    def add(self, example: Example) -> None:
        """Count one row."""
        self.kind, self.rows = example.kind, self.rows + 1
        prompt, answer = _sides(example)
        self.prompts[_tokens(prompt)] += 1
        self.answers[_tokens(answer)] += 1
        if example.asked:
            self.asked.add(example.asked)
        spoken = [turn for turn in (*_turns(prompt), *_turns(answer)) if isinstance(turn, Mapping)]
        self.turns = max(self.turns, sum(turn.get("role") == "assistant" for turn in spoken))
        calls = any(turn.get("tool_calls") for turn in spoken)
        self.calls += calls
        self.tools += bool(calls or (example.kind != "text" and example.value.get("tools")))
        apart = any(turn.get(key) for turn in spoken for key in REASONING)
        self.thoughts += apart
        self.reasoning += apart or "</think>" in _text(answer)
        self.good += example.kind == "label" and bool(example.value["label"])


def _sides(example: Example) -> tuple[Any, Any]:
    """The prompt and the answer of a row; all of a plain text is its answer."""
    value = example.value
    match example.kind:
        case "text":
            return "", value["text"]
        case "messages":
            turns = value["messages"]
            mine = [turn for turn in turns if turn["role"] == "assistant"]
            return [turn for turn in turns if turn["role"] != "assistant"], mine
        case "preference":
            return value["prompt"], value["chosen"]
        case "prompt":
            return value["prompt"], ""
    return value["prompt"], value["completion"]


def _turns(side: Any) -> list[Any]:
    return side if isinstance(side, list) else []


def _text(side: Any) -> str:
    return side if isinstance(side, str) else "\n".join(str(turn.get("content") or "") for turn in side)


def _tokens(side: Any) -> int:
    return round(len(_text(side).encode("utf-8", "replace")) / BYTES_PER_TOKEN)


def prompt_settings(fmt: Format, sample: Sequence[Row], settings: SetSettings) -> dict[str, Any] | None:
    """Settings with which the rows of a format are read as prompts; None where a part of a prompt would be lost."""
    if fmt.kind == "prompt":
        return {}
    if fmt.kind in ("text", "messages") or settings.columns or not sample:
        return None
    lost = {"input", "context", *SYSTEM, *HISTORY}
    if any(not is_nothing(row.value.get(name)) for row in sample for name in lost):
        return None
    first = sample[0].value
    if "prompt" in first:
        return {"data.format": "prompt"}
    names = [need.column(first) for need in fmt.needs]
    asked = names[0] if names else None
    if asked is None or (fmt.kind == "preference" and asked in ("chosen", "rejected")):
        return None
    return {"data.format": "prompt", "data.columns": {"prompt": asked}}


def checkable_of(fmt: Format, sample: Sequence[Row], settings: SetSettings) -> Checkable | None:
    """How a rule can check the answers: prompts with a column of the right one, or pairs with short answers."""
    if not sample or settings.columns:
        return None
    if fmt.kind == "prompt":
        names = [name for name in ANSWER_COLUMNS if not is_nothing(sample[0].value.get(name))]
    elif fmt.kind == "pair" and prompt_settings(fmt, sample, settings) is not None:
        wanted = [need.names for need in fmt.needs[1:2]]
        names = [name for names in wanted if (name := column(sample[0].value, names))]
    else:
        return None
    for name in names:
        values = [row.value.get(name) for row in sample]
        if any(isinstance(value, bool) or not isinstance(value, str | int | float) for value in values):
            continue
        texts = [str(value) for value in values]
        if all(_NUMBER.fullmatch(text) for text in texts):
            return Checkable(rule=NUMBER, column=name)
        if all(len(text.split()) <= _FEW_WORDS and len(text) <= _FEW_LETTERS for text in texts):
            return Checkable(rule=EXACT, column=name)
    return None
