"""What a user means by a word that is no setting yet: a file of rows, a recipe, a choice; and by `model=FOLDER`.

Every such word becomes an override as it could have been typed, so that what follows knows only overrides; the command
prints what was understood. A word that could mean two things is an error that names both. A word that means nothing is
left as it is, for the parser of overrides to refuse.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import is_builtin
from ftcli.data.files.file_types import kind_of
from ftcli.data.files.locate import is_hub
from ftcli.data.files.urls import is_url
from ftcli.data.path_list import join_paths, split_paths
from ftcli.settings.backends import ROLES
from ftcli.settings.groups import GROUPS

_HEADS = frozenset({*GROUPS, *ROLES, "run", "seed", "recipe", "stages", "make", "hydra"})
"""What the name of a setting starts with."""
_SETTING = re.compile(r"(?:~|\+\+|\+)?(?P<key>[A-Za-z_][\w.-]*)(?P<value>=.*)?", re.DOTALL)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_YAML = (".yaml", ".yml")
_MODEL_FILES = ("config.json", "adapter_config.json")
_RUN_FILES = ("spec.json", "pipeline.json")


@dataclass(frozen=True)
class Understood:
    """The overrides that the words stand for, in order, and a line on each word that was none itself."""

    overrides: tuple[str, ...]
    notes: tuple[str, ...]


def understood(words: Sequence[str], config_dirs: tuple[Path, ...] = ()) -> Understood:
    """What the words of a command line stand for.

    Raises:
        ConfigError: a word can mean two things; both are named.
    """
    overrides: list[str] = []
    notes: list[str] = []
    problems: list[Problem] = []
    rows: list[str] = []
    for word in words:
        meanings = _meanings(word, config_dirs)
        if len(meanings) > 1:
            problems.append(Problem(word, "can mean several things", f"write {' or '.join(meanings)}"))
        elif not meanings:
            overrides.append(word)
        elif meanings[0] == _rows(word):
            if not rows:
                overrides.append("")  # their place: several words are one list
            rows.append(word)
        else:
            overrides.append(meanings[0])
            notes.append(f"{word} is {meanings[0]}")
    if rows:
        named = _joined(rows)
        overrides[overrides.index("")] = named
        notes.append(named)
        problems += _named_twice(named, words)
    notes += filter(None, (_namesake(word, config_dirs) for word in words))
    if problems:
        raise ConfigError(*problems)
    return Understood(tuple(overrides), tuple(notes))


def _rows(*words: str) -> str:
    return f"data.path={join_paths(words)}"


def _joined(words: Sequence[str]) -> str:
    """One override for all words that name rows; a word may itself list several."""
    places: list[str] = []
    for word in words:
        listed = split_paths(word)
        places += [listed] if isinstance(listed, str) else listed
    return _rows(*places)


def _named_twice(named: str, words: Sequence[str]) -> Iterator[Problem]:
    for word in words:
        if re.match(r"\+*data\.(path|mix)\b", word) or (word.startswith("data=") and not _is_setting_of(word)):
            fix = "list all files in one place, as data.path=[FILE,FILE]; data.mix gives each set its share"
            yield Problem(word, f"sets the rows, as {named} does", fix)


def _is_setting_of(word: str) -> bool:
    """Whether `data=X` names a choice."""
    return word.rpartition("=")[2] in assets.choices("data")


def _meanings(word: str, config_dirs: tuple[Path, ...]) -> list[str]:
    """Every override that a word may stand for; none if it is an override already, or nothing known."""
    match = _SETTING.fullmatch(word)
    if match is not None and match["value"] is not None and not word.startswith(("~", "+")):
        return _of_setting(word, match["key"], match["value"][1:], config_dirs)
    if word.startswith(("~", "+", "-")) and not os.path.lexists(os.path.expanduser(word)):
        return []
    return _of_bare(word, config_dirs)


def _of_setting(word: str, key: str, value: str, config_dirs: tuple[Path, ...]) -> list[str]:
    """The meanings of KEY=VALUE: a file may have such a name, and a group may be given a place in place of a choice."""
    if os.path.lexists(word):
        if key.partition(".")[0] not in _HEADS:
            return _of_bare(word, config_dirs)
        if kind_of(word) is not None and os.path.isfile(word):
            return [f"+{word}", f"./{word}"]
    if key == "model" and value not in assets.choices(key, extra=config_dirs) and _is_model(value):
        return [f"model.name_or_path={value}"]
    if key == "data" and value not in assets.choices(key, extra=config_dirs) and _is_rows(value):
        return [f"data.path={value}"]
    return []


def _of_bare(word: str, config_dirs: tuple[Path, ...]) -> list[str]:
    found = []
    if word.endswith(_YAML):
        return [f"recipe={word}"]
    path = os.path.expanduser(word)
    if os.path.isdir(path) and _holds(path, _RUN_FILES):
        found += [f"--resume {word}", f"--from {word}", f"model={word}"]
    elif os.path.isdir(path) and _holds(path, _MODEL_FILES):
        found.append(f"model.name_or_path={word}")
    elif os.path.lexists(path) or _is_rows(word):
        found.append(_rows(word))
        if _HUB_ID.fullmatch(word) and not os.path.lexists(path) and kind_of(word) is None:
            found = [f"model.name_or_path={word}", f"data.path={word}"]
    if word in assets.recipes():
        found.append(f"recipe={word}")
    found += [f"{group}={word}" for group in GROUPS if word in assets.choices(group, extra=config_dirs)]
    return found


def _holds(folder: str, names: tuple[str, ...]) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in names)


def _is_model(value: str) -> bool:
    """Whether a value can only be the place of a model: a path, a folder or a hub id with its organisation."""
    return (
        value.startswith(("./", "../", "/", "~"))
        or os.path.isdir(os.path.expanduser(value))
        or is_builtin(value)
        or _HUB_ID.fullmatch(value) is not None
    )


def _is_rows(value: str) -> bool:
    """Whether a value can be where rows are, by its name or because it exists."""
    return (
        isinstance(split_paths(value), list)
        or value.startswith(("./", "../", "/", "~"))
        or os.path.lexists(os.path.expanduser(value))
        or kind_of(value) is not None
        or is_url(value)
        or is_builtin(value)
        or (glob.has_magic(value) and bool(glob.glob(os.path.expanduser(value), recursive=True)))
        or ("/" in value and is_hub(value))
        or value.startswith("hub:")
    )


def _namesake(word: str, config_dirs: tuple[Path, ...]) -> str:
    """A line on a choice that has the name of a model's folder or a file here: which of them is taken."""
    key, _, value = word.partition("=")
    if key not in ("model", "data") or value not in assets.choices(key, extra=config_dirs):
        return ""
    if key == "model" and not (os.path.isdir(value) and _holds(value, (*_MODEL_FILES, *_RUN_FILES))):
        return ""
    return f"{word} is the choice of that name; the folder here is {key}=./{value}" if os.path.isdir(value) else ""
