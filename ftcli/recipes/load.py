"""A recipe on disk → choices and values with their lines, after every guard that a stranger's file needs.

A recipe is data, never code: no Hydra settings, no `_target_`, no package or override tricks in `defaults`, no resolvers
but plain `${a.b}` references, no paths outside its folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli import assets
from ftcli.errors import ConfigError, Problem
from ftcli.names import suggest
from ftcli.recipes.strict import Document, KeyPath, load
from ftcli.rules import LIBRARY_PATHS
from ftcli.settings import GROUPS, PATH_KEYS
from ftcli.sources import BUILTIN

SCHEMA_VERSION = 1
TOP_LEVEL = ("ftcli", "defaults", *GROUPS, "run", "seed")

# Renamed settings, {schema version: {old dotted key: new}}: every recipe ever shipped stays readable.
RENAMES: dict[int, dict[str, str]] = {}

REFERENCE = re.compile(r"\$\{[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\}")


@dataclass(frozen=True)
class Recipe:
    """A recipe that passed every guard. `values` hold absolute paths where they are paths."""

    document: Document
    choices: dict[str, str]
    values: dict[str, Any]
    literal: frozenset[KeyPath]
    """Values that are paths and are never interpolated."""

    def where(self, path: KeyPath) -> str:
        """`file:line` of a setting."""
        return self.document.where(path)


def find(name: str, where: str) -> Path:
    """The file that `recipe=` means: a path to a YAML file, or the name of a shipped recipe.

    Raises:
        ConfigError: neither; the nearest names are listed.
    """
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if path.is_file():
            return path
        raise ConfigError(Problem(where, f"there is no file {name}", "recipe= takes a YAML file or a name of ftcli recipe"))
    shipped = assets.recipes()
    if name in shipped:
        return shipped[name]
    raise ConfigError(Problem(where, f"{name} is not a recipe", suggest(name, shipped, "recipe=")))


def _walk(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, (*path, str(index)))


def guard_values(document: Document, *, skip: tuple[str, ...] = ()) -> list[Problem]:
    """Everything in a file that could reach code, the environment or Hydra itself."""
    problems = []
    for path, value in _walk({key: item for key, item in document.data.items() if key not in skip}):
        where, key = document.where(path), path[-1] if path else ""
        if key.startswith("_") or "@" in key or key == "hydra" or key.startswith(("hydra/", "hydra.")):
            fix = "remove it; a recipe is choices and values only"
            problems.append(Problem(where, f"{key} steers Hydra and can run code", fix))
        if isinstance(value, str) and "${" in REFERENCE.sub("", value):
            what = f"{'.'.join(path)} calls a resolver: {value[:60]}"
            problems.append(Problem(where, what, "only plain references like ${train.learning_rate} are allowed"))
    return problems


def _choices(document: Document, problems: list[Problem]) -> dict[str, str]:
    found: dict[str, str] = {}
    entries = document.data.get("defaults", [])
    if not isinstance(entries, list):
        problems.append(Problem(document.where(("defaults",)), "defaults is not a list", "write `- method: dpo` lines"))
        return found
    for index, entry in enumerate(entries):
        where = document.where(("defaults", str(index)))
        if not (isinstance(entry, dict) and len(entry) == 1):
            problems.append(Problem(where, f"{entry!r} is not `group: choice`", "write one `- method: dpo` a line"))
            continue
        [(group, choice)] = entry.items()
        if group not in GROUPS:
            fix = "defaults name choices of " + ", ".join(GROUPS)
            problems.append(Problem(where, f"{group} is not a group", fix))
        elif not isinstance(choice, str):
            problems.append(Problem(where, f"{group} needs the name of a choice, not {choice!r}", f"ftcli list {group}"))
        elif group in found:
            problems.append(Problem(where, f"{group} is chosen twice", "remove one of them"))
        else:
            found[group] = choice
    return found


def _is_path(key: str, value: Any, folder: Path) -> bool:
    if not isinstance(value, str) or value == BUILTIN:
        return False
    if key == "model.name_or_path":  # a hub id unless it looks like a path or is one here
        return value.startswith((".", "/", "~")) or (folder / value).exists()
    if key in LIBRARY_PATHS:
        return not value.lstrip().startswith("{")
    return key in PATH_KEYS


def _resolve_paths(document: Document, folder: Path, allow_path: bool, problems: list[Problem]) -> set[KeyPath]:
    """Make the recipe's paths absolute in place; outside its folder only when allowed."""
    literal = set()
    for group, settings in document.data.items():
        for key, value in settings.items() if isinstance(settings, dict) else ():
            if not _is_path(f"{group}.{key}", value, folder):
                continue
            path = (folder / Path(value).expanduser()).resolve()
            if not allow_path and not path.is_relative_to(folder):
                what = f"{group}.{key} leaves the recipe's folder: {value}"
                fix = "allow it with --allow-path, or give it on the command line"
                problems.append(Problem(document.where((group, key)), what, fix))
            settings[key] = str(path)
            literal.add((group, key))
    return literal


def read(path: Path, *, allow_path: bool = False) -> Recipe:
    """Read a recipe and pass it through every guard.

    Raises:
        ConfigError: all that is wrong with it, each with file and line.
    """
    document = load(path)
    problems = guard_values(document, skip=("defaults",))
    for key in document.data:
        if key not in TOP_LEVEL and not key.startswith(("_", "hydra")) and "@" not in key:
            fix = suggest(key, TOP_LEVEL, "")
            if "." in key:
                fix = f"write it nested, `{key.split('.')[0]}:` and the key indented below"
            problems.append(Problem(document.where((key,)), f"{key} is not a key of a recipe", fix))
    version = document.data.get("ftcli")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        what = "does not say `ftcli: 1` (the schema version)" if version is None else f"ftcli: {version} is not a known schema"
        fix = "add the line `ftcli: 1`" if version is None else f"this ftcli reads 1 to {SCHEMA_VERSION}; upgrade it"
        problems.append(Problem(document.where(("ftcli",)), what, fix))
    for group in (*GROUPS, "run"):
        if not isinstance(document.data.get(group, {}), dict):
            what = f"{group} holds no settings; a choice goes under defaults"
            problems.append(Problem(document.where((group,)), what, f"defaults:\n         - {group}: {document.data[group]}"))
    choices = _choices(document, problems)
    literal = _resolve_paths(document, path.resolve().parent, allow_path, problems)
    if problems:
        raise ConfigError(*problems)
    values = {key: value for key, value in document.data.items() if key not in ("ftcli", "defaults")}
    return Recipe(document, choices, values, frozenset(literal))
