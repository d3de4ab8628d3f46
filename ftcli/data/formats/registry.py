"""The supported formats of rows, recognised by their columns and converted to one of six dataset types.

Trainers know dataset types (TRL's term), never formats; `kind` in the code is a dataset type. A conversation is a list
of canonical turns (`conversations.turns`); text stays a string only where the set names no speaker.

    text        {"text": str}
    pair        {"prompt", "completion"}            both str or both conversations
    messages    {"messages"}
    preference  {"prompt", "chosen", "rejected"}    all str or all conversations
    label       {"prompt", "completion", "label": bool}
    prompt      {"prompt", …}                       further columns unchanged

Conversations may have "tools". The formats themselves are in format_table.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ftcli.core.declarations import added
from ftcli.core.errors import ConfigError, DataError, Problem, RowProblem
from ftcli.core.plugins.plugin_results import place_of
from ftcli.data.files.describe import describe_type
from ftcli.data.formats.columns import VARIABLES, Example, Format, apply_mapping, nearest_formats
from ftcli.data.formats.context import with_context
from ftcli.data.formats.conversations import ROLES, FieldFault, Roles, spoken, with_meanings
from ftcli.data.formats.format_table import FORMATS as BUILT_IN
from ftcli.data.formats.suggest_columns import fitting_formats, mapping_override, suggested_columns, typed

if TYPE_CHECKING:  # reading files imports more than `ftcli list` needs
    from ftcli.data.files.reader import Row

__all__ = [
    "DATASET_TYPES",
    "FORMATS",
    "Format",
    "apply_mapping",
    "candidates",
    "columns_error",
    "convert",
    "convert_type",
    "converted_type",
    "dataset_type_problem",
    "recognise",
]

DATASET_TYPES: Mapping[str, str] = {
    "text": "plain text",
    "pair": "prompt-completion pairs",
    "messages": "messages",
    "preference": "preference pairs",
    "label": "labelled completions",
    "prompt": "prompts",
}
"""Every dataset type, and what messages call its rows."""

FORMATS: dict[str, Format] = {**{fmt.name: fmt for fmt in added(__package__, "FORMAT").values()}, **BUILT_IN}
"""Every format by name, in the order in which they are tried: those of plugins first, since they are the narrower."""

# --- recognition and conversion -------------------------------------------------------------------------------------


def candidates(row: Mapping[str, Any]) -> list[Format]:
    """All formats whose columns the row has, the most specific first."""
    return [fmt for fmt in _possible(tuple(row)) if fmt.recognise(row)]


def recognise(row: Mapping[str, Any]) -> Format | None:
    """The most specific format whose columns the row has; None if there is none."""
    return next((fmt for fmt in _possible(tuple(row)) if fmt.recognise(row)), None)


@lru_cache(maxsize=64)
def _possible(columns: tuple[str, ...]) -> tuple[Format, ...]:
    """The formats that find each column that they need among these, by name: most rows leave one or two."""
    present = set(columns)
    return tuple(fmt for fmt in FORMATS.values() if all(present.intersection(need.names) for need in fmt.needs))


_UNSUPPORTED: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "segments of text with a label each (Axolotl's input_output)": (
        ("segments",),
        "no format trains parts of a text",
        "write them as messages, with weight 0 on the turns that are only read",
    ),
    "steps with a label each (TRL's stepwise supervision)": (
        ("completions", "labels"),
        "no method trains a reward for each step",
        "give one answer and one label per row, for method=kto",
    ),
}
"""Rows of other tools that are known and have no format: their columns, why, and the remedy."""


def columns_error(row: Mapping[str, Any], where: str, setting: str = "data.columns") -> Problem:
    """The problem that no format matches: the row's columns, what the three nearest formats lack, and a likely mapping.

    Args:
        setting: the one that maps the columns of this set.
    """
    for form, (names, why, fix) in _UNSUPPORTED.items():
        if all(isinstance(row.get(name), list) for name in names):
            return Problem(where, f"the rows are {form}: {why}", fix)
    columns = ", ".join(f"{name} ({describe_type(value)})" for name, value in row.items()) or "none"
    formats = list(FORMATS.values())
    guess = suggested_columns(row, formats)
    likely = fitting_formats(guess, row, formats)[:2] if guess else []
    near = [*likely, *(fmt for fmt in nearest_formats(row, formats) if fmt not in likely)][:3]
    # A problem is one line: a newline in it may be a stranger's, and is printed as an escape.
    nearest = ", ".join(f"{fmt.name} ({'; '.join(fmt.faults(row))})" for fmt in near)
    what = f"the columns match no supported format. The nearest are {nearest}. The columns are {columns}"
    fix = f"rename the columns to those of a format, or map them with {setting}={{ours: theirs}}"
    if guess:
        fix = f"if the columns mean that, add {typed(mapping_override(guess, setting))}; else map them as they mean"
    return Problem(where, what, fix)


def convert(
    fmt: Format, row: Row, *, wanted: Collection[str] = tuple(DATASET_TYPES), roles: Roles | None = None
) -> Example:
    """The row as an example of the format's dataset type, or of the type it is converted to for `wanted`.

    Args:
        wanted: dataset types that the trainer takes; see `converted_type`.
        roles: meanings of further role names (`data.roles`), in addition to ROLES: {"customer": "user"}.

    Raises:
        DataError: names the row's place, the field, the fault and the remedy.
    """
    try:
        meanings = with_meanings(roles) if roles else ROLES
        example = fmt.to_canonical(row.value, meanings)
        if fmt.name not in BUILT_IN:
            _require_kind(fmt, example)
        return convert_type(with_context(fmt.kind, row.value, example, meanings), fmt.kind, wanted)
    except FieldFault as fault:
        raise DataError(RowProblem(row.where, fault.what, fault.fix, field=fault.field)) from None


_HELD: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "pair": ("prompt", "completion"),
    "messages": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "label": ("prompt", "completion"),
    "prompt": ("prompt",),
}


def _require_kind(fmt: Format, example: Example) -> None:
    """Check that a plugin's format made an example of its kind.

    Raises:
        ConfigError: it did not, with the place of its converter.
    """
    for name in _HELD[fmt.kind]:
        value = example.get(name)
        turns = isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value)
        if not (isinstance(value, str) or turns):
            held = f"its {name} is {describe_type(value)}, and not text or turns"
            held = held if name in example else f"it has no {name}"
            what = f"the format {fmt.name} makes no row of the kind {fmt.kind}: {held}"
            fix = "mend the converter; ftcli plugins check DIR tries it on its example"
            raise ConfigError(Problem(place_of(fmt.to_canonical), what, fix))


def converted_type(kind: str, wanted: Collection[str]) -> str | None:
    """The wanted dataset type that `kind` is converted to; None if no conversion is lossless."""
    if kind in wanted:
        return kind
    return "messages" if kind == "pair" and "messages" in wanted else None


def convert_type(example: Example, kind: str, wanted: Collection[str]) -> Example:
    """An example of `kind` as one of the wanted dataset types; a pair becomes a user and an assistant turn.

    Raises:
        FieldFault: no conversion is lossless. (Labels are never dropped: half of the answers may be bad.)
    """
    if kind in wanted:
        return example
    if converted_type(kind, wanted) is None:
        raise FieldFault(f"a row of type {kind} cannot be converted to {' or '.join(wanted)} without loss")
    prompt = spoken(example["prompt"], "prompt", "user")
    if any(turn["role"] == "assistant" for turn in prompt):
        # A pair does not train them; messages would.
        raise FieldFault(
            "the prompt has earlier answers that would be trained too", "write the row as messages", "prompt"
        )
    completion = spoken(example["completion"], "completion", "assistant")
    declared = {name: example[name] for name in ("tools", VARIABLES) if name in example}
    return {"messages": [*prompt, *completion], **declared}


def dataset_type_problem(
    fmt: Format, row: Mapping[str, Any], where: str, wanted: Collection[str], by: str
) -> Problem | None:
    """The problem that `by` (a method's name) cannot use this dataset type; None if it can, directly or converted."""
    if converted_type(fmt.kind, wanted):
        return None
    others = [other.name for other in candidates(row) if converted_type(other.kind, wanted)]
    fix = f"use such data, or a method that takes {DATASET_TYPES[fmt.kind]}"
    if others:
        fix += f"; or set data.format, since the columns also match {' or '.join(others)}"
    needed = " or ".join(DATASET_TYPES[kind] for kind in wanted)
    what = f"this data set holds {DATASET_TYPES[fmt.kind]} (format {fmt.name}); {by} needs {needed}"
    return Problem(where, what, fix)
