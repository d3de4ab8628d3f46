"""The files of a hub data set that make up a configuration and split, by its README.md or else by their names.

The README is untrusted: it is read up to a limit, by the safe parser in Python (the one in C overflows its stack on
nested brackets), and can name only files of its own set.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ftcli.data.files.file_types import KNOWN, holds_rows, kind_of
from ftcli.data.files.split_names import TRAIN, NoSplit, by_name, chosen

_CARD_BYTES = 8 << 20
_CONFIGS_BYTES = 512 << 10
_PATTERNS = 10_000


class BadCard(Exception):
    """The README describes its files in a way that is not valid."""


def pick(card: Path | None, names: Sequence[str], subset: str | None, split: str | None) -> list[str]:
    """The files of a configuration and split.

    Args:
        card: the set's README.md, if it has one.
        names: paths of all files of the set, with slashes.
        subset: configuration; None is the default one, or the only one.
        split: None is `train` where there is one, else the only one.

    Raises:
        BadCard: the README is not valid.
        NoSplit: there is no such configuration or split, or the choice is ambiguous, or no file is supported.
    """
    configs = _configs(card) if card is not None else {}
    if not configs:
        return _by_folder(names, subset, split)
    config = configs[_config_name(configs, subset)]
    base = str(config.get("data_dir") or "").removeprefix(".").strip("/")
    inside = [name for name in names if not base or name.startswith(base + "/")]
    if not config.get("data_files"):
        return by_name(_readable(inside), split)
    splits: dict[str, list[str]] = {}
    for name, pattern in _patterns(config["data_files"]):
        matches = _matching(f"{base}/{pattern}" if base else pattern, names)
        if not matches:
            raise NoSplit(f"has no file {pattern}, which its README.md lists", [])
        if unreadable := [match for match in matches if kind_of(match) is None]:
            raise NoSplit(f"stores its rows in {unreadable[0]}, which is not a supported file type ({KNOWN})", [])
        files = splits.setdefault(name, [])
        files.extend(match for match in matches if match not in files)
    return chosen(splits, split)


def _by_folder(names: Sequence[str], subset: str | None, split: str | None) -> list[str]:
    if subset is None:
        return by_name(_readable(names), split)
    folder = subset.strip("/") + "/"
    inside = [name.removeprefix(folder) for name in names if name.startswith(folder)]
    if not inside:
        folders = sorted({name.partition("/")[0] for name in names if "/" in name and holds_rows(name)})
        raise NoSplit(f"has no subset {subset}", folders)
    return [folder + name for name in by_name(_readable(inside), split)]


def _readable(names: Sequence[str]) -> list[str]:
    readable = [name for name in names if holds_rows(name)]
    if not readable:
        raise NoSplit("has no file of a supported type", [])
    return readable


def _config_name(configs: dict[str, dict[str, Any]], subset: str | None) -> str:
    if subset is not None:
        if subset not in configs:
            raise NoSplit(f"has no subset {subset}", sorted(configs))
        return subset
    default = [name for name, config in configs.items() if config.get("default") is True]
    if default or "default" in configs:
        return default[0] if default else "default"
    if len(configs) > 1:
        raise NoSplit(f"has {len(configs)} subsets and none of them is the default", sorted(configs))
    return next(iter(configs))


def _configs(card: Path) -> dict[str, dict[str, Any]]:
    """`configs` of the front matter by name; {} if there are none."""
    import yaml

    with open(card, "rb") as handle:
        text = handle.read(_CARD_BYTES).decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    front = re.match(r"---[ \t]*\n(.*?)^---[ \t]*$", text, re.DOTALL | re.MULTILINE)
    # Only this block is parsed, since the front matter of a large set has megabytes about other things.
    block = re.search(r"^configs:.*?(?=^[^\s#-]|\Z)", front[1], re.DOTALL | re.MULTILINE) if front else None
    if block is None:
        return {}
    if len(block[0]) > _CONFIGS_BYTES:
        raise BadCard(f"its configs are longer than {_CONFIGS_BYTES >> 10} KiB")
    try:
        configs: Any = yaml.safe_load(block[0])["configs"]
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, KeyError):
        raise BadCard("its configs are not readable YAML") from None
    if configs is None:
        return {}
    if not isinstance(configs, list) or not all(
        isinstance(config, dict) and isinstance(config.get("config_name", "default"), str) for config in configs
    ):
        raise BadCard("its configs are not a list of {config_name, data_files}")
    return {config.get("config_name", "default"): config for config in configs}


def _patterns(data_files: Any) -> Iterator[tuple[str, str]]:
    """Split and pattern of each entry of `data_files`, in any of its notations."""
    entries: list[tuple[Any, Any]] = []
    if isinstance(data_files, dict):
        entries = list(data_files.items())
    else:
        for entry in data_files if isinstance(data_files, list) else [data_files]:
            entries.append(
                (entry.get("split", TRAIN), entry.get("path")) if isinstance(entry, dict) else (TRAIN, entry)
            )
    number = 0
    for split, paths in entries:
        for path in paths if isinstance(paths, list) else [paths]:
            number += 1
            if number > _PATTERNS:
                raise BadCard(f"it names more than {_PATTERNS} files")
            if not isinstance(split, str) or not isinstance(path, str) or len(path) > 1000:
                raise BadCard("its data_files are not paths")
            path = path.removeprefix("./")
            if "://" in path or path.startswith("/") or ".." in path.split("/"):
                raise BadCard(f"it names {path}, which is not a file of the set")
            yield split, path


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that a glob matches: `*` and `?` stay within a folder, `**` is any number of folders."""
    head = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    if head == pattern:
        return [pattern] if pattern in names else []
    globs = pattern.split("/")
    return sorted(name for name in names if name.startswith(head) and _matches(globs, name.split("/")))


def _matches(globs: Sequence[str], parts: Sequence[str]) -> bool:
    # All places in the pattern that the parts so far can reach: linear in time, whatever the pattern.
    places = _with_skipped(globs, {0})
    for part in parts:
        places = {
            place if globs[place] == "**" else place + 1
            for place in places
            if place < len(globs) and (globs[place] == "**" or fnmatch.fnmatchcase(part, globs[place]))
        }
        places = _with_skipped(globs, places)
    return len(globs) in places


def _with_skipped(globs: Sequence[str], places: set[int]) -> set[int]:
    """The places, and those after each `**`, which may match nothing."""
    for place, mark in enumerate(globs):
        if mark == "**" and place in places:
            places.add(place + 1)
    return places
