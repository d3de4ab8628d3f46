"""Which columns a format needs, and what a row lacks: recognition is a table, so that errors can explain it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import DataError, Problem
from ftcli.data.files.describe import describe_value
from ftcli.data.formats.conversations import CALL, ROLE_KEYS, ROLES, Roles, key_of

if TYPE_CHECKING:  # reading files imports more than `ftcli list` needs
    from ftcli.data.files.reader import Row

Example = dict[str, Any]
Converter = Callable[[Mapping[str, Any], Roles], Example]


@dataclass(frozen=True)
class Shape:
    """What a value must look like, by a quick check."""

    name: str
    fits: Callable[[Any], bool]
    holds_turns: bool = False
    """Whether such a value may be turns."""


def _turns_with(*keys: str) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and (
            not value or (isinstance(value[0], dict) and key_of(value[0], ROLE_KEYS, "") in keys)
        )

    return fits


def is_answer(value: Any) -> bool:
    """Whether a value is a list of turns without a user turn: an answer, not a whole conversation."""
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        return False
    names = [str(turn.get(key_of(turn, ROLE_KEYS, ""))) for turn in value]
    return {ROLES.get(name) or ROLES.get(name.lower()) for name in names} <= {"assistant", "tool", CALL}


SYSTEM = ("system", "system_prompt")
"""Columns of the system text that comes before a conversation."""
HISTORY = ("history",)
"""Columns of the exchanges before the prompt."""
TOOLS = ("tools", "functions")
"""Columns of the tools that the assistant may call."""
VARIABLES = "chat_template_kwargs"
"""The column of values for variables of the chat template, for this row."""
CONTEXT = (*SYSTEM, *HISTORY, *TOOLS, VARIABLES)
"""What every format reads beside its own columns, except plain text, which has no turns (see context.py)."""

WEIGHTS = ("weight", "row_weight", "loss_weight", "sample_weight")
"""Columns of what a row weighs in the loss, which rows of every format may have (see row_numbers.py)."""

SOFT_LABEL = ("chosen_probability",)
"""The column of the probability that the chosen answer of a pair is the better one, which preference rows may have."""

LABELS = ("label", "labels", "kto_tag")
"""Columns that label an answer, whatever they hold: another value than a label is an error of its row."""
LABELS_BY_VALUE = (
    *("is_good", "good", "is_desirable", "desirable", "thumbs_up", "liked", "preference", "preferred", "is_preferred"),
    *("is_chosen", "accepted", "is_accepted", "feedback"),
)
"""Columns that label an answer if they hold a label; other values mean something else."""
_GOOD = ("true", "1", "1.0", "yes", "good", "desirable", "positive", "chosen", "accepted", "up", "thumbs_up")
_BAD = ("false", "0", "0.0", "no", "bad", "undesirable", "negative", "rejected", "down", "thumbs_down")
_LABEL_WORDS = {**dict.fromkeys(_GOOD, True), **dict.fromkeys(_BAD, False)}


def label_value(value: Any) -> bool | None:
    """The label that a value states: true or false, 1 or 0, or a word for one of them; None if it states none."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float | str):
        return _LABEL_WORDS.get(str(value).strip().lower().replace(" ", "_"))
    return None


def is_label(value: Any) -> bool:
    """Whether a value states a label."""
    return label_value(value) is not None


def label_column(row: Mapping[str, Any]) -> str | None:
    """The column that labels the row's answer; None if there is none."""
    by_value = (name for name in LABELS_BY_VALUE if is_label(row.get(name)))
    return column(row, LABELS) or next(by_value, None)


TEXT = Shape("text", lambda value: isinstance(value, str))
ROLE_TURNS = Shape("a list of {role, content}", _turns_with("role", "speaker", "author"), True)
FROM_TURNS = Shape("a list of {from, value}", _turns_with("from"), True)
TURNS = Shape("a list of turns", _turns_with(*ROLE_KEYS), True)
ONE_ANSWER = Shape("text or one turn", lambda value: isinstance(value, str | dict) or is_answer(value), True)
CONVERSATION = Shape("a list of turns or one turn", lambda value: TURNS.fits(value) or isinstance(value, dict), True)
TEXT_OR_TURNS = Shape("text or turns", lambda value: isinstance(value, str) or CONVERSATION.fits(value), True)
LABEL = Shape("true or false", is_label)


@dataclass(frozen=True)
class Need:
    """A column under any of several names; a null value counts as no column."""

    names: tuple[str, ...]
    shape: Shape

    @property
    def shown(self) -> tuple[str, ...]:
        """The names that messages and tables print."""
        return self.names

    def column(self, row: Mapping[str, Any]) -> str | None:
        """The column of the row that is read; None if it has none of them."""
        return column(row, self.names)

    def met(self, row: Mapping[str, Any]) -> bool:
        """Whether the row meets this need: as `fault`, which takes ten times as long to say why not."""
        name = self.column(row)
        return name is not None and self.shape.fits(row[name])

    def fault(self, row: Mapping[str, Any]) -> str:
        """Why the row does not meet this need; "" if it does."""
        name = self.column(row)
        if name is None:
            near = self._near(row)
            hint = f" (there is {near!r})" if near else ""
            return f"no column {' or '.join(self.names)}{hint}"
        if not self.shape.fits(row[name]):
            return f"{name} is {describe_value(row[name])}, not {self.shape.name}"
        return ""

    def distance(self, row: Mapping[str, Any]) -> float:
        """0 if met, 1 if the row has nothing like it, 0.5 for a similar name or a wrong shape."""
        if not self.fault(row):
            return 0.0
        return 0.5 if self.column(row) or self._near(row) else 1.0

    def _near(self, row: Mapping[str, Any]) -> str | None:
        close = (difflib.get_close_matches(name, list(row), 1, 0.8) for name in self.names)
        return next((names[0] for names in close if names), None)


@dataclass(frozen=True)
class LabelNeed(Need):
    """A column that labels the answer: under a name for labels, or under another one by its values."""

    @property
    def shown(self) -> tuple[str, ...]:
        """As its parent, without the names that only count with a label as their value."""
        return LABELS

    def column(self, row: Mapping[str, Any]) -> str | None:
        """As its parent."""
        return label_column(row)

    def met(self, row: Mapping[str, Any]) -> bool:
        """As its parent."""
        return self.column(row) is not None

    def fault(self, row: Mapping[str, Any]) -> str:
        """As its parent; a value that is no label is a fault of the row, and makes it no row of another format."""
        return "" if self.column(row) else Need(LABELS, self.shape).fault(row)


@dataclass(frozen=True)
class Format:
    """One way to write rows; `kind` is the dataset type that they become."""

    name: str
    kind: str
    doc: str
    needs: tuple[Need, ...]
    optional: tuple[str, ...]
    to_canonical: Converter
    """Pure; raises FieldFault."""

    def faults(self, row: Mapping[str, Any]) -> list[str]:
        """Why the row is not in this format, by its columns alone."""
        return [fault for need in self.needs if (fault := need.fault(row))]

    def recognise(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has the columns of this format, whatever their content."""
        return all(need.met(row) for need in self.needs)

    @property
    def has_turns(self) -> bool:
        """Whether it may hold turns, each with a role."""
        return any(need.shape.holds_turns for need in self.needs)

    @property
    def reads(self) -> tuple[str, ...]:
        """Every column that it may read, those that it needs first; of type `prompt` all others go to the rewards."""
        own = [*(name for need in self.needs for name in need.names), *self.optional]
        soft = SOFT_LABEL if self.kind == "preference" else ()
        return tuple(dict.fromkeys([*own, *(CONTEXT if self.kind != "text" else ()), *soft, *WEIGHTS]))

    def read_in(self, row: Mapping[str, Any]) -> set[str]:
        """The columns of the row that it reads; of several names for one thing the first that has a value."""
        needed = [need.column(row) for need in self.needs]
        context = [column(row, SYSTEM), column(row, TOOLS), *HISTORY] if self.kind != "text" else []
        numbers = [column(row, WEIGHTS), *(SOFT_LABEL if self.kind == "preference" else ())]
        return {name for name in (*needed, *context, *numbers, *self.optional) if name is not None and name in row}

    def unread(self, row: Mapping[str, Any]) -> list[str]:
        """Columns of the row that hold something and that this format ignores."""
        read = self.read_in(row)
        return [name for name, value in row.items() if name not in read and not is_nothing(value)]


def is_nothing(value: Any) -> bool:
    """Whether a value holds nothing that could be lost: null, or an empty text, list or object."""
    return value is None or value == "" or value == [] or value == {}


def column(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of the names under which the row has a value."""
    for name in names:  # a generator would take three times as long, several times a row
        if row.get(name) is not None:
            return name
    return None


def nearest_formats(row: Mapping[str, Any], formats: Sequence[Format]) -> list[Format]:
    """The formats that have something in common with the row (all, if none has), nearest first."""

    def distance(fmt: Format) -> float:
        return sum(need.distance(row) for need in fmt.needs)

    near = [fmt for fmt in formats if distance(fmt) < len(fmt.needs)]
    # Of two that lack equally much, the one with more needs explains more of the row.
    return sorted(near or formats, key=lambda fmt: (distance(fmt), -len(fmt.needs)))


def apply_mapping(row: Row, mapping: Mapping[str, str]) -> Row:
    """The row with its columns renamed.

    Args:
        mapping: canonical name to the name in the file. A column that already has a canonical name is replaced.

    Raises:
        DataError: the row lacks a mapped column; lists those it has.
    """
    missing = [theirs for theirs in mapping.values() if theirs not in row.value]
    if missing:
        what = f"has no column {' or '.join(map(repr, missing))} to map; its columns are {', '.join(row.value)}"
        near = [m for name in missing for m in difflib.get_close_matches(name, list(row.value), 1)]
        raise DataError(Problem(row.where, what, f"did you mean {' or '.join(near)}?" if near else "map one of these"))
    if not mapping:
        return row
    taken = set(mapping.values()) | set(mapping)
    value = {name: row.value[name] for name in row.value if name not in taken}
    value.update((ours, row.value[theirs]) for ours, theirs in mapping.items())
    return row._replace(value=value)
