"""What a run shall not forget: a frozen set of rows by kind, measured before and after training, and the gate on it.

A row is measured by the mean log-probability of its answer's tokens (nats a token), which needs no generation, says
something of a model of any size, and moves long before an answer flips. A change of -0.02 means that each token of the
right answers became about 2 % less likely. Kinds weigh the same, whatever their number of rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import BUILTIN_SETS, home_expanded
from ftcli.core.suggest import suggest
from ftcli.core.untrusted import foreign_files

GENERAL = "builtin:general"
"""Our own small set: facts, arithmetic, instructions, refusals and language, twelve rows of each."""
WHOLE = "retention"
"""The gate on the mean over all kinds; each kind has one of its own name."""
MAX_ROWS = 2000
MAX_CHARACTERS = 4000
"""Of a row: it is measured twice in each run."""
_FIX = '{"kind": "facts", "prompt": "…", "completion": "…"}, or {"kind": …, "text": …}, on each line'


@dataclass(frozen=True)
class RetentionRow:
    """A right answer, or a text, that the model shall go on to find likely."""

    kind: str
    prompt: str | None
    """None for a text without one."""
    text: str


@dataclass(frozen=True)
class RetentionSet:
    """The rows, in their order."""

    name: str
    digest: str
    """Of the file's bytes: the set is frozen."""
    rows: tuple[RetentionRow, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds, in the order of their first rows."""
        return tuple(dict.fromkeys(row.kind for row in self.rows))


def read_set(name: str, where: str = "run.retention") -> RetentionSet:
    """The set of that name: built in, or a file of JSON lines.

    Raises:
        ConfigError: there is none, or a line of it is none of its rows.
    """
    path = Path(__file__).with_name("general.jsonl") if name == GENERAL else home_expanded(name)
    if name != GENERAL and name.startswith(BUILTIN_SETS):
        raise ConfigError(Problem(where, f"{name} is no built-in set", f"{where}={GENERAL}, or a file"))
    try:
        raw = foreign_files.read_bytes(path)
        lines = raw.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        what = f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(Problem(where, what, f"name a file of JSON lines, or {GENERAL}")) from None
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not 0 < len(rows) <= MAX_ROWS:
        raise ConfigError(Problem(where, f"{name} has {len(rows)} rows", f"from 1 to {MAX_ROWS}"))
    return RetentionSet(name, sha256(raw).hexdigest(), tuple(_row(line, f"{path}:{number}") for number, line in rows))


def _row(line: str, where: str) -> RetentionRow:
    try:
        found = foreign_files.parse_json(line)
    except ValueError:
        raise ConfigError(Problem(where, "is no JSON", _FIX)) from None
    keys = found.keys() if isinstance(found, dict) else set()
    texts = isinstance(found, dict) and all(isinstance(each, str) and each.strip() for each in found.values())
    if not texts or keys not in ({"kind", "prompt", "completion"}, {"kind", "text"}):
        raise ConfigError(Problem(where, "is no row of a retention set", _FIX))
    if sum(map(len, found.values())) > MAX_CHARACTERS:
        raise ConfigError(Problem(where, f"has more than {MAX_CHARACTERS} characters", "shorten it"))
    if found["kind"] == WHOLE or not found["kind"].replace("_", "").isalnum():
        what = f"has kind {found['kind']!r}, which is no name of one"
        raise ConfigError(Problem(where, what, "letters, digits and _"))
    return RetentionRow(found["kind"], found.get("prompt"), found.get("completion") or found["text"])


def gate_problems(gate: Any, kinds: tuple[str, ...], where: str = "run.gate") -> Iterator[Problem]:
    """What is wrong with a gate on a set of these kinds."""
    example = f"run.gate={{{WHOLE}: -0.02}}"
    if not isinstance(gate, Mapping) or not gate:
        yield Problem(where, f"run.gate is {json.dumps(gate)}, which names no measure", example)
        return
    for name, least in gate.items():
        own = f"run.gate.{name}"
        if name not in (WHOLE, *kinds):
            yield Problem(where, f"{own} is no measure of the retention set", suggest(str(name), (WHOLE, *kinds), ""))
        elif isinstance(least, bool) or not isinstance(least, int | float) or not math.isfinite(least):
            yield Problem(where, f"{own} is {least!r}, which is not a number", example)
        elif least > 0:
            what = f"{own}={least:g} is above 0, and would ask for a gain of every run"
            yield Problem(where, what, f"name the largest loss that is taken: {own}={-least:g}")


def failures(gate: Mapping[str, float], found: Mapping[str, Any]) -> list[str]:
    """How a run fails its gate, one line each; none where it passes.

    Args:
        found: `retention` of result.json.
    """
    said = []
    for name, least in gate.items():
        measured = found if name == WHOLE else found["kinds"][name]
        change = measured["difference"]["value"]
        if not change >= least:  # nothing that is not a number passes
            whole = "retention" if name == WHOLE else f"retention of {name}"
            said.append(f"{whole} fell by {-change:.4f} nats a token, and run.gate takes {-least:g}")
    return said


def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a run gained and lost, by kind, as rows of its result."""
    change = found["difference"]
    whole = f"{_signed(change)} nats a token over {found['rows']} rows of {found['set']}"
    kinds = ", ".join(f"{kind} {each['difference']['value']:+.4f}" for kind, each in found["kinds"].items())
    gate = found.get("gate") or {}
    table = [("retention", whole), ("by kind", kinds)]
    if gate:
        failed = found.get("failed") or []
        limits = ", ".join(f"{name} at least {least:g}" for name, least in gate.items())
        table.append(("gate", "; ".join(map(str, failed)) if failed else f"passed: {limits}"))
    return table


def _signed(found: Mapping[str, Any]) -> str:
    return f"{found['value']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
