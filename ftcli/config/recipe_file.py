"""A recipe on disk → choices and values with their lines, after every check that an untrusted file needs.

A recipe is data, never code: no Hydra settings, no `_target_`, no package or override tricks in `defaults`, no
resolvers but plain `${a.b}` references, no paths outside its folder.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftcli.config import references
from ftcli.config.recipe_paths import PATH_FIX, Bounds, resolve_paths
from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import home_expanded
from ftcli.core.strict_yaml import Document, KeyPath, load
from ftcli.core.suggest import suggest
from ftcli.core.text import shell_word
from ftcli.data.files.urls import is_url, shown
from ftcli.settings.backends import ROLES
from ftcli.settings.groups import GROUPS, PLACES

SCHEMA_VERSION = 1
TOP_LEVEL = ("ftcli", "defaults", *GROUPS, *ROLES, "run", "seed", "stages", "sweep")
_OF_THE_FILE = ("ftcli", "defaults", "stages", "sweep")
"""Keys that are no values of a run."""
WITHOUT_SWEEP = "~sweep"
"""The override that leaves a recipe's search space out."""
OF_STAGE = ("defaults", *GROUPS, *ROLES, "make", "run", "seed")
"""Keys that a recipe may set for one stage of a pipeline."""

# Schema version: what it renamed, old name to new; settings as `group.key`, choices as `group=choice`. A recipe of an
# earlier version is read with the new names, so that every recipe ever shipped stays readable.
RENAMES: dict[int, dict[str, str]] = {}


@dataclass(frozen=True)
class Recipe:
    """A recipe that passed every check. Paths among its `values` are absolute."""

    document: Document
    choices: dict[str, str]
    values: dict[str, Any]
    literal: frozenset[KeyPath]
    """Values that are paths and are never interpolated."""
    stages: Mapping[str, Recipe] = field(default_factory=dict)
    """Its settings for single stages of a pipeline, each read like a recipe of its own."""
    ready: str | None = None
    """Of a stage: the model or run that replaces it."""
    sweep: Mapping[str, Any] | None = None
    """What `ftcli sweep` searches, and how; None where it has nothing to search."""

    def where(self, path: KeyPath) -> str:
        """`file:line` of a setting."""
        return self.document.where(path)


def parts_of(
    recipe: Recipe | None, stage: str, like: str, held_back: Collection[str], chosen: Collection[str] = ()
) -> list[Recipe]:
    """What a recipe says of a stage, in rising order of precedence.

    Args:
        like: the stage whose settings hold for it too; "" for none.
        held_back: those of its settings that do not.
        chosen: the groups of which something else is chosen for the stage, so that none of their settings does.
    """
    if recipe is None:
        return []
    own = [recipe.stages[stage]] if stage in recipe.stages else []
    groups = {*chosen, *(group for part in own for group in part.choices)}
    return [*([_part_without(recipe.stages[like], held_back, groups)] if like in recipe.stages else []), *own]


def _part_without(part: Recipe, held_back: Collection[str], groups: Collection[str]) -> Recipe:
    """What a recipe says of a stage, without some of its settings and groups."""
    values: dict[str, Any] = {}
    for group, own in part.values.items():
        if group in groups:
            continue
        if isinstance(own, dict):
            values[group] = {key: value for key, value in own.items() if f"{group}.{key}" not in held_back}
        elif group not in held_back:
            values[group] = own
    choices = {group: choice for group, choice in part.choices.items() if group not in (*held_back, *groups)}
    return replace(part, values=values, choices=choices, ready=None)


def find(name: str, where: str) -> Path:
    """The file that `recipe=` refers to: a path to a YAML file, or the name of a shipped recipe.

    Raises:
        ConfigError: neither; the nearest names are listed.
    """
    if is_url(name) or name.startswith(("git+", "hub:")):
        what = f"{shown(name)} is elsewhere, and a recipe is read from a file here"
        raise ConfigError(Problem(where, what, "get it first: ftcli recipe fetch --help says how it is pinned"))
    path = home_expanded(name)
    if path.suffix in (".yaml", ".yml") or os.path.isfile(path):
        if os.path.isfile(path):
            return path
        raise ConfigError(
            Problem(where, f"there is no file {name}", "recipe= takes a YAML file or a name listed by ftcli recipe")
        )
    shipped = assets.recipes()
    if name in shipped:
        return shipped[name]
    raise ConfigError(Problem(where, f"{name} is not a recipe", suggest(name, shipped, "recipe=")))


def _walk(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value in a tree with its path, parents first."""
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, (*path, str(index)))


def guard_values(document: Document, *, skip: tuple[str, ...] = ()) -> list[Problem]:
    """A problem for everything in a file that could reach code, the environment or Hydra itself."""
    problems = []
    for path, value in _walk({key: item for key, item in document.data.items() if key not in skip}):
        where, key = document.where(path), path[-1] if path else ""
        # `_target_` and its kin instantiate classes, `@` and `hydra` move packages and configure Hydra.
        if key.startswith("_") or "@" in key or key == "hydra" or key.startswith(("hydra/", "hydra.")):
            fix = "remove it; a recipe holds only choices and values"
            problems.append(Problem(where, f"{key} configures Hydra and can run code", fix))
        # What is left after plain references is a resolver such as ${oc.env:HOME}, which could read or run anything.
        if isinstance(value, str) and references.has_resolver(value):
            what = f"{'.'.join(path)} calls a resolver: {value[:60]}"
            problems.append(Problem(where, what, references.ONLY_REFERENCES))
    return problems


def _choices(document: Document, problems: list[Problem]) -> dict[str, str]:
    """The choice of each group that `defaults` lists."""
    choices: dict[str, str] = {}
    entries = document.data.get("defaults", [])
    if not isinstance(entries, list):
        problems.append(Problem(document.where(("defaults",)), "defaults is not a list", "write `- method: dpo` lines"))
        return choices
    for index, entry in enumerate(entries):
        where = document.where(("defaults", str(index)))
        if not (isinstance(entry, dict) and len(entry) == 1):
            problems.append(Problem(where, f"{entry!r} is not `group: choice`", "write one `- method: dpo` per line"))
            continue
        [(group, choice)] = entry.items()
        if group not in (*GROUPS, *ROLES):
            fix = "the groups are " + ", ".join(GROUPS)
            problems.append(Problem(where, f"{group} is not a group", fix))
        elif not isinstance(choice, str):
            problems.append(
                Problem(where, f"{group} needs the name of a choice, not {choice!r}", f"ftcli list {group}")
            )
        elif group in choices:
            problems.append(Problem(where, f"{group} is chosen twice", "remove one of them"))
        else:
            choices[group] = choice
    return choices


def _renamed(document: Document, version: int) -> Document:
    """The document of an earlier schema under the current names; each keeps the line of its old name."""
    data, lines = copy.deepcopy(document.data), dict(document.lines)
    for names in (RENAMES.get(later, {}) for later in range(version + 1, SCHEMA_VERSION + 1)):
        for old, new in names.items():
            group, equals, choice = old.partition("=")
            if equals:
                for entry in data.get("defaults", []):
                    if isinstance(entry, dict) and entry.get(group) == choice:
                        entry[group] = new.partition("=")[2]
                continue
            group, _, key = old.partition(".")
            new_group, _, new_key = new.partition(".")
            if isinstance(data.get(group), dict) and key in data[group]:
                data.setdefault(new_group, {}).setdefault(new_key, data[group].pop(key))
                lines[(new_group, new_key)] = lines[(group, key)]
    return Document(document.file, data, lines)


def _unknown_key(document: Document, key: str, value: Any, known: tuple[str, ...]) -> Iterator[Problem]:
    """The problem of a key that no recipe has, with the right name, and of the known keys below it."""
    from ftcli.config.key_hints import nested, remedy

    inner = list(nested(key, value))
    for path, name, own in inner:
        hint = remedy(name, own, recipe=True)
        yield Problem(document.where(path), f"{name} is not a key of a recipe", hint or "")
    if "." in key:
        fix = f"write it nested, `{key.split('.')[0]}:` and the key indented below"
    else:
        fix = remedy(key, value, recipe=True) or suggest(key, known, "")
    yield Problem(document.where((key,)), f"{key} is not a key of a recipe", fix)


def _version_problems(document: Document) -> list[Problem]:
    """A problem if the recipe's schema version is missing or unknown."""
    version = document.data.get("ftcli")
    if type(version) is int and 1 <= version <= SCHEMA_VERSION:
        return []
    where = document.where(("ftcli",))
    if version is None:
        from ftcli.config.key_hints import foreign_tool

        if tool := foreign_tool(document.data):
            what = f"is a configuration of {tool}, not a recipe of ftcli"
            fix = "start with the line `ftcli: 1`, then write each key as said below (docs/coming-from.md lists them)"
            return [Problem(where, what, fix)]
        return [Problem(where, "lacks `ftcli: 1` (the schema version)", "add the line `ftcli: 1`")]
    fix = f"this ftcli reads 1 to {SCHEMA_VERSION}; upgrade it"
    return [Problem(where, f"ftcli: {version} is not a known schema", fix)]


def _key_problems(document: Document, known: tuple[str, ...]) -> list[Problem]:
    """Problems for unknown keys, and for groups that hold something other than settings."""
    problems: list[Problem] = []
    for key, value in document.data.items():
        where = document.where((key,))
        if key not in known and not key.startswith(("_", "hydra")) and "@" not in key:
            problems.extend(_unknown_key(document, key, value, known))
        elif key in (*GROUPS, "run") and not isinstance(value, dict):
            fix = "write `key: value` lines below it"
            if key in GROUPS and isinstance(value, str):
                fix = f"write `- {key}: {value}` under `defaults:`"
                if key in PLACES and value not in assets.choices(key):
                    fix = f"write `{PLACES[key]}: {value}` below `{key}:` ({key}.{PLACES[key]})"
            problems.append(Problem(where, f"{key} holds no settings; a choice goes under defaults", fix))
    return problems


def read(path: Path, *, allow_path: bool = False) -> Recipe:
    """Read and check a recipe.

    Raises:
        ConfigError: every problem in it, each with file and line.
    """
    document = load(path)
    version = _version_problems(document)
    problems = [*guard_values(document, skip=("defaults",)), *version]
    written = 0 if version else document.data["ftcli"]
    folder = path.resolve().parent
    bounds = Bounds(folder, folder, "the recipe's folder", allow_path)
    stages = {}
    for name, part in _stage_documents(document, problems).items():
        ready = _ready(part, bounds, problems)
        stages[name] = replace(_guarded(part, OF_STAGE, written, bounds, problems), ready=ready)
    recipe = _guarded(document, TOP_LEVEL, written, bounds, problems)
    sweep = document.data.get("sweep")
    if "sweep" in document.data and not isinstance(sweep, dict):
        problems.append(Problem(document.where(("sweep",)), "sweep holds no settings", "write `space:` lines below it"))
    if problems:
        raise ConfigError(*problems)
    return replace(recipe, stages=stages, sweep=sweep)


def read_for_run(path: Path, overrides: Sequence[str], *, allow_path: bool = False) -> Recipe:
    """`read`, for a single run or pipeline, which reads no search space: `~sweep` leaves it out.

    Raises:
        ConfigError: every problem in it; or it has a search space that nothing leaves out.
    """
    recipe = read(path, allow_path=allow_path)
    if recipe.sweep is not None and WITHOUT_SWEEP not in overrides:
        named = shell_word(f"recipe={path}")
        fix = f"ftcli sweep {named} searches it; {WITHOUT_SWEEP} trains once, with the other values of the recipe"
        raise ConfigError(Problem(recipe.where(("sweep",)), "a single run reads no search space", fix))
    if recipe.sweep is None and WITHOUT_SWEEP in overrides:
        raise ConfigError(Problem(WITHOUT_SWEEP, f"{path} has no search space to leave out", "drop it"))
    return recipe


def _guarded(
    document: Document, known: tuple[str, ...], written: int, bounds: Bounds, problems: list[Problem]
) -> Recipe:
    """A checked document with its choices and values, under the current names and with absolute paths.

    Args:
        known: the keys that it may have.
        written: the schema version that it was written for; 0 if unknown.
    """
    for group in (*GROUPS, "run"):  # `train:` with nothing below it sets nothing
        if group in document.data and document.data[group] is None:
            del document.data[group]
    problems.extend(_key_problems(document, known))
    document = _renamed(document, written) if written else document
    choices, literal = _choices(document, problems), set[KeyPath]()
    for group, settings in document.data.items():
        if isinstance(settings, dict) and group != "stages":
            found = resolve_paths(group, settings, bounds)
            literal.update((group, key) for key in found)
            problems += [Problem(document.where((group, key)), what, PATH_FIX) for key, what in found.items() if what]
    values = {key: value for key, value in document.data.items() if key not in _OF_THE_FILE}
    return Recipe(document, choices, values, frozenset(literal))


def _stage_documents(document: Document, problems: list[Problem]) -> dict[str, Document]:
    """The settings below `stages:`, as one document per stage."""
    stages = document.data.get("stages") or {}
    found: dict[str, Document] = {}
    for name, settings in stages.items() if isinstance(stages, dict) else [("stages", stages)]:
        path = ("stages", name) if isinstance(stages, dict) else ("stages",)
        if not isinstance(settings, dict):
            problems.append(Problem(document.where(path), f"{name} holds no settings", "write `group:` lines below it"))
            continue
        # Paths are cut to start at the stage, and keep their lines in the recipe.
        lines = {known[2:]: line for known, line in document.lines.items() if known[:2] == path and len(known) > 2}
        found[name] = Document(document.file, settings, {(): document.lines.get(path, 1), **lines})
    return found


def _ready(part: Document, bounds: Bounds, problems: list[Problem]) -> str | None:
    """The run or model that replaces a stage: `model: NAME` in place of settings."""
    if not isinstance(part.data.get("model"), str):
        return None
    named = {"name_or_path": part.data.pop("model")}
    found = resolve_paths("model", named, bounds)
    problems += [Problem(part.where(("model",)), what, PATH_FIX) for what in found.values() if what]
    return str(named["name_or_path"])
