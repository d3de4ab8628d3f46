"""The paths in a recipe or a user's group file: relative to the file, and inside its folder, whatever they lead to.

Everything that such a file reaches lies in its own folder or in the hub cache, unless --allow-path was given: the
places that it names, what links and patterns below them lead to, the bases below an adapter, and what a name would mean
in the working directory.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli import tiny
from ftcli.config import references
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.hub_cache import hub_cache
from ftcli.core.module_source import is_file_of_code
from ftcli.core.paths import UNNAMED, home_expanded, is_builtin, is_template_path
from ftcli.core.strict_yaml import Document
from ftcli.data.files.locate import is_hub
from ftcli.data.files.urls import is_url, shown
from ftcli.data.path_list import split_paths
from ftcli.methods.method import NO_MODELS
from ftcli.models import sources
from ftcli.settings.fields.field_table import LIBRARY_PATHS
from ftcli.settings.groups import MODEL_KEYS, is_functions_key, is_path_key, is_rows_key

_MOST_ENTRIES = 100_000
"""Files and folders below a path that are looked at; a larger folder is granted, or named on the command line."""


def _is_path(key: str, value: Any, folder: Path) -> bool:
    """Whether a setting's value is a path, rather than a built-in name, a hub id or a value of another type."""
    if not isinstance(value, str) or is_builtin(value) or value == UNNAMED:
        return False
    if key in MODEL_KEYS and value in NO_MODELS:
        return False
    if key in MODEL_KEYS:  # a hub id unless it looks like a path, may become one by reference, or exists here
        looks = value.startswith((".", "/", "~")) or "${" in value or ".." in Path(value).parts
        return looks or os.path.exists(folder / value)
    if key == "model.chat_template":
        return is_template_path(value)
    if key in LIBRARY_PATHS:  # transformers also takes the JSON itself in these
        return not value.lstrip().startswith("{")
    if is_path_key(key) and key.startswith("data."):  # the name of a hub set, unless such a path exists here
        return not is_hub(value) or os.path.exists(folder / value)
    return is_path_key(key)


@dataclass(frozen=True)
class Bounds:
    """Where a file's relative paths start, the folder that they must stay in, and how errors name it."""

    start: Path
    limit: Path
    name: str
    allow_path: bool


def resolve_paths(group: str, settings: dict[str, Any], bounds: Bounds) -> dict[str, str]:
    """Make the paths in a group's settings absolute, in place.

    Returns:
        What is wrong with each path, by key; "" for a path that is allowed.
    """
    faults = {}
    for key, value in settings.items():
        if is_rows_key(f"{group}.{key}") and isinstance(value, (str, list)):
            listed = split_paths(value, str(bounds.start)) if isinstance(value, str) else value
            if isinstance(listed, list):
                resolved = [_resolved_path(f"{group}.{key}", each, bounds) for each in listed]
                settings[key] = [path for path, _ in resolved]
                found = [fault for _, fault in resolved if fault is not None]
                if found:
                    faults[key] = next(filter(None, found), "")
                continue
        if is_functions_key(f"{group}.{key}") and isinstance(value, dict):
            settings[key], outside = _resolved_functions(f"{group}.{key}", value, bounds)
            if outside:
                faults[key] = outside
            continue
        if isinstance(value, dict):
            below = resolve_paths(f"{group}.{key}", value, bounds)
            if below:
                faults[key] = next(filter(None, below.values()), "")
            continue
        settings[key], fault = _resolved_path(f"{group}.{key}", value, bounds)
        if fault is not None:
            faults[key] = fault
    return faults


def _resolved_functions(name: str, functions: Mapping[str, Any], bounds: Bounds) -> tuple[dict[str, Any], str]:
    """Functions by name, those in files with the whole place of their file, and what is wrong with one of these."""
    found, fault = dict[str, Any](), ""
    for function, weight in functions.items():
        place, _, attribute = str(function).rpartition(":")
        if not is_file_of_code(place):
            found[function] = weight
            continue
        path = Path(os.path.realpath(bounds.start / home_expanded(place)))
        found[f"{path}:{attribute}"] = weight
        if not (bounds.allow_path or path.is_relative_to(bounds.limit)):
            fault = fault or f"{name} points outside {bounds.name}: {place}"
    return found, fault


def _resolved_path(name: str, value: Any, bounds: Bounds) -> tuple[Any, str | None]:
    """A setting's value, absolute if it is a path, and what is wrong with it: "" for nothing, None if it is no path."""
    if not _is_path(name, value, bounds.start):
        return _named_model(name, value, bounds)
    value = references.unescaped(value)  # never interpolated, so that this is all there is to resolve
    if is_url(value):
        return value, "" if bounds.allow_path else f"{name} points outside {bounds.name}: {shown(value)}"
    # realpath follows links, so that a link inside the folder cannot lead out of it.
    path = Path(os.path.realpath(bounds.start / home_expanded(value)))
    if bounds.allow_path:
        return str(path), ""
    if not path.is_relative_to(bounds.limit):
        return str(path), f"{name} points outside {bounds.name}: {value}"
    below = _left_by_links(path, bounds)
    if not below and name in MODEL_KEYS:
        below = _left_by_bases(path, bounds)
    return str(path), f"{name} leads outside {bounds.name}: {below}" if below else ""


def _named_model(name: str, value: Any, bounds: Bounds) -> tuple[Any, str | None]:
    """A setting that is no path: a hub id, unless the working directory has a run or a folder of that name."""
    if name not in MODEL_KEYS or not isinstance(value, str) or is_builtin(value) or value in NO_MODELS:
        return value, None
    source = _source_of(value)
    if source is None or source.folder is None:
        return value, None
    if bounds.allow_path or _is_inside(source.folder, bounds):
        return str(source.folder), "" if bounds.allow_path else _fault_of_bases(name, source.folder, bounds)
    return value, f"{name} would mean a folder outside {bounds.name}: {value} is {source.folder}"


def _fault_of_bases(name: str, folder: Path, bounds: Bounds) -> str:
    below = _left_by_links(folder, bounds) or _left_by_bases(folder, bounds)
    return f"{name} leads outside {bounds.name}: {below}" if below else ""


def _source_of(name: str) -> sources.ModelSource | None:
    try:
        return sources.model_source(name)
    except (ConfigError, OSError, ValueError):  # reported where the model itself is checked
        return None


def _is_inside(path: Path, bounds: Bounds) -> bool:
    """Whether a path, with its links followed, is in the folder, in the hub cache, or part of ftcli."""
    real = Path(os.path.realpath(path))
    homes = (bounds.limit, Path(os.path.realpath(hub_cache())), Path(os.path.realpath(tiny.MODEL_DIR)))
    return any(real.is_relative_to(home) for home in homes)


def _left_by_links(path: Path, bounds: Bounds) -> str:
    """The first file or folder below a path, or that a pattern matches, which a link leads elsewhere; "" for none."""
    for number, each in enumerate(_below(path)):
        if number >= _MOST_ENTRIES:
            return f"{path} has more than {_MOST_ENTRIES} entries, too many to look at"
        if not _is_inside(Path(each), bounds):
            return f"{each} is {os.path.realpath(each)}"
    return ""


def _below(path: Path) -> Iterator[str]:
    """Everything at and below a path, links not followed, and what it matches where it is a pattern."""
    if not os.path.lexists(path) and glob.has_magic(str(path)):
        yield from glob.iglob(str(path), recursive=True)
        return
    for here, folders, files in os.walk(path):
        for name in (*folders, *files):
            yield os.path.join(here, name)


def _left_by_bases(folder: Path, bounds: Bounds) -> str:
    """The first base below an adapter that is a folder elsewhere; "" for none."""
    source, passed = _source_of(str(folder)), set[Path]()
    while source is not None and source.is_adapter and source.folder is not None and source.folder not in passed:
        passed.add(source.folder)
        try:
            base = sources.base_of(source.folder)
        except ConfigError:  # reported where the model itself is checked
            return ""
        source = _source_of(base)
        looks = base.startswith((".", "/", "~")) or ".." in Path(base).parts
        if source is None and looks:
            return f"the base of an adapter, {base}"
        if source is not None and source.folder is not None and not _is_inside(source.folder, bounds):
            return f"the base of an adapter, {source.folder}"
    return ""


PATH_FIX = "allow it with --allow-path, or give it on the command line"


def guard_group_paths(document: Document, group: str, file: Path, *, allow_path: bool) -> list[Problem]:
    """Check the paths in a user's group file: relative to the file, and inside its --config-dir."""
    folder = file.resolve().parent
    bounds = Bounds(folder, folder.parent, "its --config-dir", allow_path)
    found = resolve_paths(group, document.data, bounds)
    return [Problem(document.where((key,)), what, PATH_FIX) for key, what in found.items() if what]


def path_keys(group: str, settings: Mapping[str, Any]) -> list[str]:
    """The settings of a group whose values are absolute paths, and so never interpolated."""

    def holds_path(key: str, value: Any) -> bool:
        if isinstance(value, list):
            return any(holds_path(key, each) for each in value)
        return bool(path_keys(key, value)) if isinstance(value, dict) else _is_path(key, value, Path("/"))

    return [key for key, value in settings.items() if holds_path(f"{group}.{key}", value)]
