"""From what the user wrote to the files that hold the rows: a file, a folder, a pattern, a URL or a set on the hub.

What is found is never more than what was named, and never silently less: a folder's order is stable, a split that
cannot be told is asked for, and a set that is only partly here is not taken for the whole.
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from ftcli.core.errors import ConfigError, Problem
from ftcli.data.files import hub_sets, object_stores
from ftcli.data.files.file_types import KNOWN, DataFile, holds_rows, kind_of, twice
from ftcli.data.files.fingerprint import fingerprint
from ftcli.data.files.split_names import NoSplit, by_name
from ftcli.data.files.urls import is_url, is_web, shown

__all__ = ["DataFile", "SourcePath", "fingerprint", "is_hub", "is_local", "locate", "names_near"]

_FILE_SCHEMES = ("file://", "local://")


@dataclass(frozen=True, kw_only=True)
class SourcePath:
    """What the user wrote of where the rows are."""

    path: str
    """A file, a folder, a glob, a URL, or ORGANISATION/NAME (hub:NAME) of a hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a hub set."""
    subset: str | None = None
    """Configuration of a hub set, or sub-folder of a folder."""
    split: str | None = None
    """Files of this split alone, of a hub set or folder; None is `train` where there is one, else all of a kind."""


def is_local(path: str) -> bool:
    """Whether a path is of this machine: neither a URL nor the name of a hub set."""
    return not is_url(path) and not is_hub(path)


def is_hub(path: str) -> bool:
    """Whether a path is the name of a hub data set, which no file or folder here has and no data file could have."""
    if path.startswith("hub:"):
        return not is_url(path)
    return hub_sets.hub_id(path) is not None and kind_of(path) is None and not os.path.lexists(os.path.expanduser(path))


def locate(source: SourcePath, where: str, *, fetch: bool) -> tuple[DataFile, ...] | None:
    """The files that hold the rows, in a stable sorted order.

    Args:
        where: the override or file:line that named the source, for errors.
        fetch: whether the network may be used; without it, None says that nothing is known here of the source.

    Raises:
        ConfigError: it is not there, cannot be read or reached, or it must be said which part of it is meant.
    """
    if is_hub(source.path):
        return _hub_files(source, where, fetch)
    if source.revision is not None:
        what = f"revision={source.revision} has no meaning for {shown(source.path)}"
        raise ConfigError(Problem(where, what, "only data sets of the hub have revisions: leave it out"))
    if source.path.startswith(_FILE_SCHEMES):
        path = source.path.partition("://")[2]
        return _local_files(source, path, where)
    if not is_url(source.path):
        return _local_files(source, os.path.expanduser(source.path), where)
    if is_web(source.path):
        _require_kind(source.path, where)
        if "*" in source.path:
            fix = "a web server lists nothing: name one file"
            raise ConfigError(Problem(where, f"{shown(source.path)} is a pattern", fix))
    return _remote_files(source, where) if fetch else None


def _hub_files(source: SourcePath, where: str, fetch: bool) -> tuple[DataFile, ...] | None:
    set_id = hub_sets.hub_id(source.path)
    if set_id is None:
        fix = "write hub:NAME or hub:ORGANISATION/NAME"
        raise ConfigError(Problem(where, f"{source.path} is no name of a hub data set", fix))
    try:
        return hub_sets.find(set_id, source.revision, source.subset, source.split, where, fetch=fetch)
    except ConfigError as error:
        if source.path.startswith("hub:") or hub_sets.cached_dataset(set_id, source.revision):
            raise
        # It may as well have been meant as a path.
        what = f"there is no file or folder {source.path} here; read as a data set of the hub: "
        near = names_near(source.path)
        raise ConfigError(
            *(Problem(p.where, what + p.what, f"{p.fix}; as a path: {near}") for p in error.problems)
        ) from None


# --- on this machine ------------------------------------------------------------------------------------------------


def _local_files(source: SourcePath, path: str, where: str) -> tuple[DataFile, ...]:
    if os.path.isdir(path):
        folder = _sub_folder(source, path, where)
        return _of_folder(source, _below(folder, where), folder, where)
    if not os.path.lexists(path) and glob.has_magic(path):
        _refuse_parts(source, where)
        return _of_pattern(_matched(path), source.path, where)
    _refuse_parts(source, where)
    require_file(path, where)
    return (DataFile(os.path.abspath(path), path),)


def require_file(path: str, where: str) -> None:
    """Make sure that a path, taken literally, is a file that can be read; no row is looked at.

    Raises:
        ConfigError: it is not there (with the nearest names that are), may not be read, or is of no known kind.
    """
    if not os.path.exists(path):
        broken = " (it is a link to something that is not there)" if os.path.lexists(path) else ""
        raise ConfigError(Problem(where, f"{path} does not exist{broken}", names_near(path)))
    _require_kind(path, where)
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise ConfigError(Problem(where, f"{path} may not be read", "check its permissions"))


def _require_kind(path: str, where: str) -> None:
    if kind_of(path) is None:
        raise ConfigError(Problem(where, f"{shown(path)} is of no kind that can be read", KNOWN))


def _sub_folder(source: SourcePath, path: str, where: str) -> str:
    if source.subset is None:
        return path
    folder = os.path.join(path, source.subset)
    if os.path.isabs(source.subset) or ".." in source.subset.split("/") or not os.path.isdir(folder):
        there = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
        what = f"{path} has no sub-folder {source.subset}"
        raise ConfigError(Problem(where, what, _there(there, "leave subset out")))
    return folder


def _below(folder: str, where: str) -> dict[str, str]:
    """Every file below a folder that is not hidden, by its path below it; links are followed, each folder once.

    Raises:
        ConfigError: a folder may not be listed.
    """

    def refuse(error: OSError) -> None:
        raise ConfigError(Problem(where, f"{error.filename} cannot be listed", "check its permissions")) from None

    found: dict[str, str] = {}
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            path = os.path.join(here, name)
            found[os.path.relpath(path, folder).replace(os.sep, "/")] = path
    return found


def _matched(pattern: str) -> dict[str, str]:
    """The files that a pattern matches, each once, however many links lead to it; folders by a "" as path."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    # By the shortest way first: one that goes round by a link to a folder above it is longer.
    for path in sorted(glob.glob(pattern, recursive=True), key=lambda each: (each.count(os.sep), each)):
        if os.path.isdir(path):
            found[path] = ""
            continue
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if real not in seen:
            seen.add(real)
            found[path] = path
    return found


# --- elsewhere ------------------------------------------------------------------------------------------------------


def _remote_files(source: SourcePath, where: str) -> tuple[DataFile, ...]:
    url = source.path
    if source.subset is not None:
        if ".." in source.subset.split("/") or is_web(url) or object_stores.is_pattern(url):
            _refuse_parts(source, where)
        url = f"{url.rstrip('/')}/{source.subset.strip('/')}"
    single, files = object_stores.listed(url, where)
    if single:
        _refuse_parts(source, where)
        _require_kind(url, where)
        return (DataFile(url, shown(url)),)
    if object_stores.is_pattern(url) and not any(name.startswith(url) for name in files.values()):
        _refuse_parts(source, where)
        return _of_pattern(files, url, where)
    return _of_folder(source, files, url, where)


# --- what is meant of what is there ---------------------------------------------------------------------------------


def _of_folder(source: SourcePath, files: Mapping[str, str], folder: str, where: str) -> tuple[DataFile, ...]:
    """The wanted of the files of a folder, given by their paths below it."""
    names = sorted(name for name in files if holds_rows(name))
    if not names:
        raise ConfigError(
            Problem(where, f"{shown(folder)} holds no file that can be read", _there(sorted(files), KNOWN))
        )
    try:
        names = by_name(names, source.split)
    except NoSplit as fault:
        every = f"name the files themselves, or all of them as {shown(folder).rstrip('/')}/**"
        fix = f"set split to {' or '.join(fault.there)}, or {every}" if fault.there else every
        raise ConfigError(Problem(where, f"{shown(folder)} {fault.what}", fix)) from None
    return _checked([files[name] for name in names], where)


def _of_pattern(files: Mapping[str, str], pattern: str, where: str) -> tuple[DataFile, ...]:
    paths = [path for name, path in files.items() if path and holds_rows(os.path.basename(name))]
    if not paths:
        folders = [name for name, path in files.items() if not path]
        fix = f"it matches folders: write {pattern.rstrip('/')}/**" if folders else "check the pattern"
        others = _there(sorted(name for name, path in files.items() if path), "")
        what = f"{shown(pattern)} matches no file that can be read"
        raise ConfigError(Problem(where, what, f"{others}; {KNOWN}" if others else fix))
    return _checked(sorted(paths), where)


def _checked(paths: list[str], where: str) -> tuple[DataFile, ...]:
    if pair := twice(paths):
        what = f"{pair[0]} and {pair[1]} are one file twice, and its rows would count double"
        raise ConfigError(Problem(where, what, "remove one of them, or name one"))
    for path in paths:
        if not is_url(path):
            require_file(path, where)
    return tuple(DataFile(path if is_url(path) else os.path.abspath(path), shown(path)) for path in paths)


def _refuse_parts(source: SourcePath, where: str) -> None:
    """Subset and split choose among the files of a folder or set; one file, or a pattern, has been chosen already."""
    for key, value in (("subset", source.subset), ("split", source.split)):
        if value is not None:
            what = f"{key}={value} has no meaning for {shown(source.path)}, which names its files already"
            raise ConfigError(Problem(where, what, f"leave {key} out, or give the folder or the hub data set"))


def _there(names: Iterable[str], otherwise: str) -> str:
    first = list(islice(names, 9))
    return f"there are {', '.join(first[:8])}{', …' if len(first) > 8 else ''}" if first else otherwise


def names_near(path: str) -> str:
    """What the folder of a path holds instead, nearest name first."""
    folder, name = os.path.split(path)
    folder = folder or "."
    if not os.path.isdir(folder):
        return f"the folder {folder} does not exist either"
    try:
        # A folder can hold millions of names; the nearest of the first thousands are hint enough.
        entries = [(entry.name, entry.is_dir()) for entry in islice(os.scandir(folder), 10_000)]
    except OSError:
        return f"the folder {folder} cannot be listed"
    readable = sorted(each for each, is_folder in entries if not is_folder and kind_of(each))
    folders = [each for each, is_folder in entries if is_folder and not each.startswith(".")]
    near = difflib.get_close_matches(name, readable + folders, n=3, cutoff=0.5)
    shown_folder = "" if folder == "." else folder
    if near:
        return f"did you mean {' or '.join(os.path.join(shown_folder, each) for each in near)}?"
    if not readable:
        return f"{folder} holds no file that can be read"
    return f"{folder} holds {', '.join(readable[:8])}{', …' if len(readable) > 8 else ''}"
