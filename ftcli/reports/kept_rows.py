"""What a run kept of its rows: some as tokens with which of them are trained, and some questions with two answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir

MOST = 16
"""Rows, and as many sequences of one, that are shown of a file, which may be anybody's."""


@dataclass(frozen=True)
class Piece:
    """Successive tokens of one kind, as text."""

    text: str
    trained: bool
    special: bool
    weight: str
    """Of their losses, where it is not 1: ×0.5."""


@dataclass(frozen=True)
class Sequence:
    """A row or one side of it."""

    name: str
    pieces: tuple[Piece, ...]
    left_out: int
    """Tokens in the middle that were not kept."""


@dataclass(frozen=True)
class ShownRow:
    """A row as the run trains on it."""

    tokens: int
    trained: int
    sequences: tuple[Sequence, ...]


@dataclass(frozen=True)
class Answered:
    """A held-out question, and the model's answers; None where that was not measured."""

    where: str
    prompt: str
    right: str | None
    before: str | None
    after: str | None
    reward_before: float | None
    reward_after: float | None


def shown_rows(run: Path) -> list[ShownRow]:
    """The rows of SHOWN; none where there is no such file.

    Raises:
        ConfigError: a later version of ftcli wrote it.
        LookupError, TypeError, ValueError, AttributeError: it is damaged.
    """
    content = _read(run / rundir.SHOWN)
    return [
        ShownRow(int(row["tokens"]), int(row["trained"]), tuple(map(_sequence, row["sequences"][:MOST])))
        for row in content.get("rows", ())[:MOST]
    ]


def answers(run: Path) -> list[Answered]:
    """The questions of ANSWERS; what is raised is as for `shown_rows`."""
    content = _read(run / rundir.ANSWERS)
    before, after = ({_question(row): row for row in content.get(side, ())} for side in ("before", "after"))
    return [*_answered(before, after)][:MOST]


def _answered(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Iterator[Answered]:
    for question in dict.fromkeys((*before, *after)):
        one, other = before.get(question, {}), after.get(question, {})
        right = one.get("right", other.get("right"))
        yield Answered(
            where=question[0],
            prompt=question[1],
            right=None if right is None else str(right),
            before=None if not one else str(one["answer"]),
            after=None if not other else str(other["answer"]),
            reward_before=_number(one.get("reward")),
            reward_after=_number(other.get("reward")),
        )


def _question(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row["where"]), str(row["prompt"])


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _read(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    content = foreign_files.read_json(file)
    rundir.require_known_schema(file, content)
    return dict(content)


def _sequence(found: Mapping[str, Any]) -> Sequence:
    tokens = [(str(text), mark, bool(special)) for text, mark, special in found["tokens"]]
    pieces = tuple(
        Piece("".join(text for text, _, _ in own), bool(mark), special, _weight(mark))
        for (mark, special), own in groupby(tokens, key=lambda token: token[1:])
    )
    return Sequence(str(found["name"]), pieces, int(found["left_out"]))


def _weight(mark: Any) -> str:
    return "" if mark in (False, True) else f"×{float(mark):g}"
