"""Principles to judge, critique and revise by: a YAML list, each with its prompts for a model.

    principles:
      - name: politeness
        judge: "… {prompt} … {answer} … Say yes or no."
        critique: "… {answer} …"
        revision: "… {answer} … {critique} …"

`{prompt}`, `{answer}` and `{critique}` are placeholders; `compare` has `{first}` and `{second}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftcli import tiny
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import BUILTIN_SETS, is_builtin
from ftcli.core.strict_yaml import Document, load

DEFAULT = Path(__file__).parent / "constitution.yaml"
_PARTS = {
    "judge": {"prompt", "answer"},
    "compare": {"prompt", "first", "second"},
    "critique": {"prompt", "answer"},
    "revision": {"prompt", "answer", "critique"},
}
_PLACE = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True, kw_only=True)
class Principle:
    """One principle with its prompt for each task; "" where it has none."""

    name: str
    judge: str = ""
    compare: str = ""
    critique: str = ""
    revision: str = ""


def filled(template: str, **parts: str) -> str:
    """The template with its placeholders filled; braces inside the parts are left alone."""
    return _PLACE.sub(lambda place: parts.get(place[1], place[0]), template)


def read(path: Path) -> tuple[Principle, ...]:
    """The principles of a file.

    Raises:
        ConfigError: every problem of the file, with its line.
    """
    document = load(path)
    problems = [*_problems(document)]
    if problems:
        raise ConfigError(*problems)
    return tuple(Principle(**entry) for entry in document.data["principles"])


def named(name: str | None) -> tuple[Principle, ...]:
    """The principles that a setting names: a file, a built-in set, or the default ones.

    Raises:
        ConfigError: every problem of the file.
    """
    if not name:
        return read(DEFAULT)
    # The last part alone: a name with `..` in it would be a file elsewhere.
    return read(
        tiny.DATA_DIR / f"{Path(name.removeprefix(BUILTIN_SETS)).name}.yaml" if is_builtin(name) else Path(name)
    )


def _problems(document: Document) -> Iterator[Problem]:
    entries = document.data.get("principles")
    if not isinstance(entries, list) or not entries:
        yield Problem(document.where(("principles",)), "has no list of principles", "write `principles:` and a list")
        return
    for number, entry in enumerate(entries):
        path = ("principles", str(number))
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            yield Problem(document.where(path), "has no name", "start each principle with `- name: …`")
            continue
        for key, value in entry.items():
            where = document.where((*path, key))
            if key == "name":
                continue
            if key not in _PARTS:
                yield Problem(where, f"{key} is not a field of a principle", f"use {', '.join(_PARTS)}")
            elif not isinstance(value, str):
                yield Problem(where, f"{key} is not text", "quote it")
            elif unknown := set(_PLACE.findall(value)) - _PARTS[key]:
                places = ", ".join(f"{{{name}}}" for name in sorted(_PARTS[key]))
                yield Problem(where, f"{{{sorted(unknown)[0]}}} is not a placeholder of {key}", f"use {places}")
