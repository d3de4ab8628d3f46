"""What one row of the table of fields says, and where in the installed source the values of a choice stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Reach = Literal["reads", "writes", "sends", "runs", "size"]
"""What a value can touch outside the loss: files and repositories that are read, files that are written, other machines
that are sent something, code that is run, or the memory that a run needs."""


HELD_OUT = "data.held_out"
"""Stands for a setting in conditions: whether there are held-out rows, by whichever setting of the data."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A place in the installed source that holds the values of a choice.

    `compared`: the words that `module` compares the variable or attribute `name` with; `members`: the values of the
    enumeration `name`; `literal`: the words in the assignment of the constant `name`.
    """

    kind: Literal["compared", "members", "literal"]
    module: str
    name: str


def compared(module: str, name: str) -> Source:
    """The words with which a module compares a variable or attribute of that name."""
    return Source(kind="compared", module=module, name=name)


def members(module: str, name: str) -> Source:
    """The values of an enumeration."""
    return Source(kind="members", module=module, name=name)


def literal(module: str, name: str) -> Source:
    """The words in the assignment of a constant."""
    return Source(kind="literal", module=module, name=name)


@dataclass(frozen=True, kw_only=True)
class FieldRow:
    """One field of a trainer config. A row without `owner` and `refused` is read by the trainer as it is set."""

    owner: str = ""
    """The setting or flag that sets it instead."""
    refused: str = ""
    """Why it is never set."""
    choices: tuple[str, ...] | Source = ()
    """The words that it takes, where its annotation does not list them."""
    free: str = ""
    """Why its text is free: what the words in it name."""
    spaced: bool = False
    """Whether its text is several of the words, with spaces between."""
    inside: str = ""
    """For a mapping: the rule of ftcli/build/checks/mappings.py that checks what is in it, or why it is free."""
    needs: tuple[str, ...] = ()
    """Settings without which it has no effect, each as SETTING=VALUE|VALUE or SETTING>NUMBER, and `not` before one that
    takes its effect away; all have to hold."""
    configs: tuple[str, ...] = ()
    """The config classes whose trainers read it, where the others do not."""
    reaches: tuple[Reach, ...] = ()
    """What it touches; nothing where empty."""
    grant: str = ""
    """The flag on the command line that it needs when a file sets it."""
    harmless: tuple[str, ...] = ()
    """The words of a field with a grant that reach nothing, and so need none."""
    guarded: str = ""
    """Of a field that writes, sends or runs and needs no grant: what holds it to what is safe."""


Rows = Mapping[str, FieldRow]


def read(
    *reaches: Reach,
    choices: tuple[str, ...] | Source = (),
    free: str = "",
    spaced: bool = False,
    inside: str = "",
    needs: str | tuple[str, ...] = (),
    configs: tuple[str, ...] = (),
    grant: str = "",
    harmless: tuple[str, ...] = (),
    guarded: str = "",
) -> FieldRow:
    """A field that the trainer reads as it is set."""
    conditions = (needs,) if isinstance(needs, str) else needs
    return FieldRow(
        choices=choices,
        free=free,
        spaced=spaced,
        inside=inside,
        needs=conditions,
        configs=configs,
        reaches=reaches,
        grant=grant,
        harmless=harmless,
        guarded=guarded,
    )


def owned(owner: str, *reaches: Reach) -> FieldRow:
    """A field that another setting of ours sets."""
    return FieldRow(owner=owner, reaches=reaches)


def refused(why: str, *reaches: Reach) -> FieldRow:
    """A field that nothing may set."""
    return FieldRow(refused=why, reaches=reaches)


LISTED = "listed"
"""`inside` of a mapping whose entries have rows of their own, `GROUP.FIELD.ENTRY`: one without a row is unsorted."""


def plain(group: str, names: str) -> dict[str, FieldRow]:
    """Numbers, switches and enumerations that are read, and whose type and limits say all there is to say."""
    return {f"{group}.{name}": FieldRow() for name in names.split()}
