"""A thousand rows of which each kind of fault spoils one: what is planted, where, and how it is to be told."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.turns import assistant, user

NUM_ROWS = 1000


class Fault(NamedTuple):
    """One kind: the line as it stands in the file, the field that is to be named, and a part of what is said."""

    name: str
    line: bytes
    field: str
    what: str


def line(*turns: Any, column: str) -> bytes:
    return json.dumps({column: list(turns)}, ensure_ascii=False).encode()


def clean_row(index: int, column: str = "messages") -> dict[str, Any]:
    """A row without a fault, unlike any other."""
    return {column: [user(f"What is {index} and one?"), assistant(f"It is {index + 1}.")]}


def errors(column: str = "messages") -> list[Fault]:
    """Rows that cannot be used."""
    asked = user("What is it?")
    call = {"type": "function", "function": {"name": "look", "arguments": '{"at": '}}
    return [
        Fault("broken JSON", b'{"' + column.encode() + b'": [{"role": "user", "content": "cut', "", "is not JSON"),
        Fault("not UTF-8", line(asked, assistant("caf?"), column=column).replace(b"?\"}]", b"\xe9\"}]"), "",
              "is not UTF-8: byte 0xe9"),
        Fault("missing column", b'{"massages": []}', column, "has no column"),
        Fault("null value", f'{{"{column}": null}}'.encode(), column, "null"),
        Fault("wrong type", f'{{"{column}": "one text"}}'.encode(), column, "not a list of turns"),
        Fault("empty answer", line(asked, assistant("  "), column=column), f"{column}[1].content", "is empty"),
        Fault("unknown role", line(asked, {"role": "narrator", "content": "Then"}, column=column),
              f"{column}[1].role", "'narrator', an unknown role"),
        Fault("broken tool call", line(asked, assistant(None, tool_calls=[call]), column=column),
              f"{column}[1].tool_calls[0]", "arguments is not JSON"),
        Fault("half a surrogate", line(asked, assistant("up \\ud83d"), column=column).replace(b"\\\\", b"\\"), column,
              f"half a character in {column}"),
        Fault("no answer", line(asked, column=column), column, "has no assistant turn"),
    ]  # fmt: skip


def findings(column: str = "messages") -> list[Fault]:
    """Rows that are suspicious, named by the kind of finding."""
    asked, said = user("Who are you?"), assistant("I am here.")
    return [
        Fault("placeholder", line(asked, assistant("Hi {{name}}"), column=column), f"{column}[1].content", "{{name}}"),
        Fault("encoding", line(asked, assistant("At the cafÃ©."), column=column), f"{column}[1].content", "Ã©"),
        Fault("role order", line(user("One"), user("Two"), assistant("Both"), column=column), f"{column}[1]",
              "speaks twice"),
        Fault("starts with the answer", line(assistant("Hello!"), asked, said, column=column), f"{column}[0]",
              "speaks first"),
        Fault("unanswered", line(asked, said, user("And then?"), column=column), f"{column}[2]", "ends with the user"),
        Fault("answer repeats the prompt", line(user("Say so"), assistant("Say so"), column=column), f"{column}[1]",
              "word for word"),
    ]  # fmt: skip


class Planted(NamedTuple):
    """The file, the line number of each kind of fault, and the two lines that hold the same row."""

    path: Path
    lines: dict[str, int]
    twins: tuple[int, int]


def plant(path: Path, column: str = "messages", seed: int = 5) -> Planted:
    """Writes a thousand rows, each fault once at a line drawn by seed, one clean row twice, all others clean."""
    faults = [*errors(column), *findings(column)]
    rows = [json.dumps(clean_row(index, column)).encode() for index in range(NUM_ROWS)]
    # The first row says what the set is, so it is a good one.
    places = Random(seed).sample(range(1, NUM_ROWS), len(faults) + 2)
    for fault, place in zip(faults, places, strict=False):
        rows[place] = fault.line
    first, second = sorted(places[-2:])
    rows[second] = rows[first]
    path.write_bytes(b"\n".join(rows) + b"\n")
    lines = {fault.name: place + 1 for fault, place in zip(faults, places, strict=False)}
    return Planted(path, lines, (first + 1, second + 1))


def as_told(ledger: dict[str, Any]) -> dict[str, set[tuple[str, str]]]:
    """Place and field of everything that a ledger tells, by its kind ("" for errors)."""
    told = {"": {(each["where"], each["field"]) for each in ledger["errors"]}}
    for kind, found in ledger["findings"].items():
        told[kind] = {(each["where"], each["field"]) for each in found["first"]}
    return told


def as_planted(planted: Planted, column: str = "messages") -> dict[str, set[tuple[str, str]]]:
    """What `as_told` must give of a ledger, with nothing beside it."""

    def place(fault: Fault) -> tuple[str, str]:
        return f"{planted.path}:{planted.lines[fault.name]}", fault.field

    told = {fault.name: {place(fault)} for fault in findings(column)}
    told[""] = {place(fault) for fault in errors(column)}
    told["duplicate"] = {(f"{planted.path}:{planted.twins[1]}", "")}
    return told
