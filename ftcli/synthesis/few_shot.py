"""Few-shot conversations that are shown before each critique and each revision (Bai et al. 2022, arXiv:2212.08073).

Two kinds of file:

    examples:                       # YAML; the questions are those of the principle
      - principle: harm
        prompt: …
        answer: …
        critique: …
        revision: …

or JSONL, each line {"critique": turns, "revision": turns}, shown as they stand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.strict_yaml import Document, load
from ftcli.core.suggest import suggest
from ftcli.synthesis import principles
from ftcli.synthesis.backend import Turns
from ftcli.synthesis.principles import Principle, filled

DEFAULT = "default"
"""Names the examples that ftcli ships."""
SHIPPED = Path(__file__).parent / "examples.yaml"
_FIELDS = ("principle", "prompt", "answer", "critique", "revision")
_REPLIES = ("critique", "revision")


def named(name: str | None, known: tuple[Principle, ...]) -> dict[str, Turns]:
    """The turns before a critique and those before a revision, of the examples that a setting names; none for null.

    Args:
        known: the stage's principles. The shipped examples use the default ones.

    Raises:
        ConfigError: every problem of the file, with its line.
    """
    if not name:
        return {}
    if name == DEFAULT:
        return _worked(SHIPPED, principles.named(None))
    path = Path(name)
    return _worked(path, known) if path.suffix in (".yaml", ".yml") else _as_written(path)


def _worked(path: Path, known: tuple[Principle, ...]) -> dict[str, Turns]:
    by_name, document = {principle.name: principle for principle in known}, load(path)
    if problems := [*_problems(document, by_name)]:
        raise ConfigError(*problems)
    found: dict[str, Turns] = {part: [] for part in _REPLIES}
    for entry in document.data["examples"]:
        for part in _REPLIES:
            question = filled(getattr(by_name[entry["principle"]], part), **{name: entry[name] for name in _FIELDS[1:]})
            found[part] += [{"role": "user", "content": question}, {"role": "assistant", "content": entry[part]}]
    return found


def _problems(document: Document, known: dict[str, Principle]) -> Iterator[Problem]:
    entries = document.data.get("examples")
    if not isinstance(entries, list) or not entries:
        yield Problem(document.where(("examples",)), "has no list of examples", "write `examples:` and a list")
        return
    for number, entry in enumerate(entries):
        path = ("examples", str(number))
        if not isinstance(entry, dict) or entry.keys() != {*_FIELDS}:
            yield Problem(document.where(path), "is not an example", f"give it {', '.join(_FIELDS)}")
            continue
        for key, value in entry.items():
            if not isinstance(value, str):
                yield Problem(document.where((*path, key)), f"{key} is not text", "quote it")
        principle = known.get(str(entry["principle"]))
        if principle is None:
            what = f"{entry['principle']} is not a principle of the stage's constitution"
            yield Problem(document.where((*path, "principle")), what, suggest(str(entry["principle"]), known, ""))
        elif not (principle.critique and principle.revision):
            what = f"the principle {principle.name} asks for no critique and revision"
            yield Problem(document.where((*path, "principle")), what, "name one that does")


def _as_written(path: Path) -> dict[str, Turns]:
    found: dict[str, Turns] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            for part in _REPLIES:
                found.setdefault(part, []).extend(row[part])
        except (ValueError, KeyError, TypeError):
            fix = 'write {"critique": [turns], "revision": [turns]} on each line'
            raise ConfigError(Problem(f"{path}:{number}", "is not a pair of examples", fix)) from None
    return found
