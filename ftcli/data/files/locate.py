"""From the path in a configuration to the files that hold the rows: a file, folder, pattern, URL or hub data set.

The result is never more than what the path names, and never silently less: the order of a folder is stable, an
ambiguous split is an error, and a set that is only partly here never counts as the whole.
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import UNNAMED
from ftcli.data.files import hub_sets, object_stores
from ftcli.data.files.file_types import KNOWN, DataFile, holds_rows, kind_of, same_file_twice, unsupported_fix
from ftcli.data.files.fingerprint import fingerprint
from ftcli.data.files.split_names import NoSplit, by_name
from ftcli.data.files.urls import is_url, is_web, shown

__all__ = ["DataFile", "SourcePath", "fingerprint", "is_hub", "is_local", "locate", "names_near"]

_FILE_SCHEMES = ("file://", "local://")


@dataclass(frozen=True, kw_only=True)
class SourcePath:
    """Where the rows are, as configured."""

    path: str
    """A file, a folder, a glob, a URL, or ORGANISATION/NAME (hub:NAME) of a hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a hub set."""
    subset: str | None = None
    """Configuration of a hub set, or subfolder of a folder."""
    split: str | None = None
    """The split of a hub set or folder to read; None is `train`, or all files where none names another split."""


def is_local(path: str) -> bool:
    """Whether a path is on this machine: neither a URL nor the name of a hub set, nor one that is still to be named."""
    return path != UNNAMED and not is_url(path) and not is_hub(path)


def is_hub(path: str) -> bool:
    """Whether a path names a hub data set: no file or folder here has that name, and no data file could have it."""
    if path.startswith("hub:"):
        return not is_url(path)
    return hub_sets.hub_id(path) is not None and kind_of(path) is None and not os.path.lexists(os.path.expanduser(path))


def locate(source: SourcePath, where: str, *, fetch: bool) -> tuple[DataFile, ...] | None:
    """The files that hold the rows, in a stable sorted order.

    Args:
        where: the override or file:line that named the source, for errors.
        fetch: whether the network may be used; without it, None means that the files are unknown offline, or unnamed.

    Raises:
        ConfigError: it does not exist, cannot be read or reached, or its subset or split is ambiguous.
    """
    if not source.path:
        raise ConfigError(Problem(where, "names no rows", "name a file, a folder, a pattern or a hub set"))
    if source.path == UNNAMED:
        if not fetch:
            return None
        raise ConfigError(Problem(where, f"{UNNAMED} stands for rows that are still to be named", "data.path=FILE"))
    # From the most specific spelling to the most general: hub name, file:// URL, plain path, web address, store.
    if is_hub(source.path):
        return _hub_files(source, where, fetch)
    if source.revision is not None:
        what = f"revision={source.revision} does not apply to {shown(source.path)}"
        raise ConfigError(Problem(where, what, "only hub data sets have revisions: leave it out"))
    if source.path.startswith(_FILE_SCHEMES):
        path = source.path.partition("://")[2]
        return _local_files(source, path, where)
    if not is_url(source.path):
        return _local_files(source, os.path.expanduser(source.path), where)
    if is_web(source.path):
        _require_kind(source.path, where)
        if "*" in source.path:
            fix = "a web server cannot list files: name one file"
            raise ConfigError(Problem(where, f"{shown(source.path)} is a pattern", fix))
    return _remote_files(source, where) if fetch else None


def _hub_files(source: SourcePath, where: str, fetch: bool) -> tuple[DataFile, ...] | None:
    """The files of a hub data set; an error also suggests local paths if the name may have been meant as one."""
    set_id = hub_sets.hub_id(source.path)
    if set_id is None:
        fix = "write hub:NAME or hub:ORGANISATION/NAME"
        raise ConfigError(Problem(where, f"{source.path} is not the name of a hub data set", fix))
    try:
        return hub_sets.find(set_id, source.revision, source.subset, source.split, where, fetch=fetch)
    except ConfigError as error:
        if source.path.startswith("hub:") or hub_sets.cached_dataset(set_id, source.revision):
            raise
        # A name/name that does not exist locally may be a mistyped path as well as a hub name.
        what = f"there is no file or folder {source.path} here; as a hub data set: "
        near = names_near(source.path)
        raise ConfigError(
            *(Problem(p.where, what + p.what, f"{p.fix}; as a path: {near}") for p in error.problems)
        ) from None


# --- on this machine ------------------------------------------------------------------------------------------------


def _local_files(source: SourcePath, path: str, where: str) -> tuple[DataFile, ...]:
    """The files of a local folder, pattern or file."""
    if os.path.isdir(path):
        folder = _sub_folder(source, path, where)
        return _of_folder(source, _below(folder, where), folder, where)
    # A file whose name contains [ or * is that file; only a path that does not exist is a pattern.
    if not os.path.lexists(path) and glob.has_magic(path):
        _refuse_parts(source, where)
        return _of_pattern(_matched(path), source.path, where)
    _refuse_parts(source, where)
    require_file(path, where)
    return (DataFile(os.path.abspath(path), path),)


def require_file(path: str, where: str) -> None:
    """Check that a path, taken literally, is a readable file of a supported type; no row is read.

    Raises:
        ConfigError: it does not exist (with the nearest names that do), is not readable or not supported.
    """
    if not os.path.exists(path):
        broken = " (it is a broken link)" if os.path.lexists(path) else ""
        raise ConfigError(Problem(where, f"{path} does not exist{broken}", names_near(path)))
    _require_kind(path, where)
    if not os.path.isfile(path):
        raise ConfigError(Problem(where, f"{path} is no regular file", "write its rows into a file"))
    if not os.access(path, os.R_OK):
        raise ConfigError(Problem(where, f"{path} is not readable", "check its permissions"))


def _require_kind(path: str, where: str) -> None:
    if kind_of(path) is None:
        raise ConfigError(Problem(where, f"{shown(path)} is not a supported file type", unsupported_fix(path)))


def _sub_folder(source: SourcePath, path: str, where: str) -> str:
    if source.subset is None:
        return path
    folder = os.path.join(path, source.subset)
    if os.path.isabs(source.subset) or ".." in source.subset.split("/") or not os.path.isdir(folder):
        # "..", like an absolute subset, would leave the folder that was named.
        there = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
        what = f"{path} has no subfolder {source.subset}"
        raise ConfigError(Problem(where, what, _there(there, "leave subset out")))
    return folder


def _below(folder: str, where: str) -> dict[str, str]:
    """Every file below a folder by its relative path; hidden folders are skipped, links are followed once.

    Raises:
        ConfigError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise ConfigError(Problem(where, f"{error.filename} cannot be listed", "check its permissions")) from None

    files: dict[str, str] = {}
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(here)) in seen:  # a link back to a folder above would never end
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            path = os.path.join(here, name)
            files[os.path.relpath(path, folder).replace(os.sep, "/")] = path
    return files


def _matched(pattern: str) -> dict[str, str]:
    """The paths that a pattern matches, each file once, however many links lead to it; a folder has "" as its path."""
    matches: dict[str, str] = {}
    seen: set[str] = set()
    # Shortest path first: a detour through a link to a folder above is longer, and is then skipped.
    for path in sorted(glob.glob(pattern, recursive=True), key=lambda each: (each.count(os.sep), each)):
        if os.path.isdir(path):
            matches[path] = ""
            continue
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if real not in seen:
            seen.add(real)
            matches[path] = path
    return matches


# --- remote ---------------------------------------------------------------------------------------------------------


def _remote_files(source: SourcePath, where: str) -> tuple[DataFile, ...]:
    """The files behind a URL: one file, those of a pattern, or those of a folder."""
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
    # A URL with [ or * may still be a folder of that name: then the store lists files below it.
    if object_stores.is_pattern(url) and not any(name.startswith(url) for name in files.values()):
        _refuse_parts(source, where)
        return _of_pattern(files, url, where)
    return _of_folder(source, files, url, where)


# --- choosing among the files ---------------------------------------------------------------------------------------


def _of_folder(source: SourcePath, files: Mapping[str, str], folder: str, where: str) -> tuple[DataFile, ...]:
    """The data files of the requested split, of all files of a folder by relative path."""
    names = sorted(name for name in files if holds_rows(name))
    if not names:
        raise ConfigError(
            Problem(where, f"{shown(folder)} has no file of a supported type", _there(sorted(files), KNOWN))
        )
    try:
        names = by_name(names, source.split)
    except NoSplit as fault:
        every = f"name the files themselves, or all of them as {shown(folder).rstrip('/')}/**"
        fix = f"set split to {' or '.join(fault.there)}, or {every}" if fault.there else every
        raise ConfigError(Problem(where, f"{shown(folder)} {fault.what}", fix)) from None
    return _checked([files[name] for name in names], where)


def _of_pattern(files: Mapping[str, str], pattern: str, where: str) -> tuple[DataFile, ...]:
    """The data files among the matches of a pattern, in sorted order."""
    paths = [path for name, path in files.items() if path and holds_rows(os.path.basename(name))]
    if not paths:
        folders = [name for name, path in files.items() if not path]
        fix = f"it matches folders: write {pattern.rstrip('/')}/**" if folders else "check the pattern"
        others = _there(sorted(name for name, path in files.items() if path), "")
        what = f"{shown(pattern)} matches no file of a supported type"
        raise ConfigError(Problem(where, what, f"{others}; {KNOWN}" if others else fix))
    return _checked(sorted(paths), where)


def _checked(paths: list[str], where: str) -> tuple[DataFile, ...]:
    """The paths as data files, each checked to be readable and none of them present twice."""
    if pair := same_file_twice(paths):
        what = f"{pair[0]} and {pair[1]} are the same file, whose rows would count twice"
        raise ConfigError(Problem(where, what, "remove one of them, or name one"))
    for path in paths:
        if not is_url(path):
            require_file(path, where)
    return tuple(DataFile(path if is_url(path) else os.path.abspath(path), shown(path)) for path in paths)


def _refuse_parts(source: SourcePath, where: str) -> None:
    """Refuse subset and split where they cannot apply: a file or a pattern already names its files."""
    for key, value in (("subset", source.subset), ("split", source.split)):
        if value is not None:
            what = f"{key}={value} does not apply to {shown(source.path)}, which already names its files"
            raise ConfigError(Problem(where, what, f"leave {key} out, or name the folder or the hub data set"))


def _there(names: Iterable[str], otherwise: str) -> str:
    first = list(islice(names, 9))
    return f"choose from {', '.join(first[:8])}{', …' if len(first) > 8 else ''}" if first else otherwise


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def names_near(path: str) -> str:
    """A remedy for a path that does not exist: the nearest names in its folder, or what the folder holds."""
    folder, name = os.path.split(path)
    folder = folder or "."
    if not os.path.isdir(folder):
        return f"the folder {folder} does not exist either"
    try:
        # A folder can have millions of names; the nearest of the first ten thousand are enough of a hint.
        entries = [(entry.name, _is_folder(entry)) for entry in islice(os.scandir(folder), 10_000)]
    except OSError:
        return f"the folder {folder} cannot be listed"
    readable = sorted(each for each, is_folder in entries if not is_folder and kind_of(each))
    folders = [each for each, is_folder in entries if is_folder and not each.startswith(".")]
    near = difflib.get_close_matches(name, readable + folders, n=3, cutoff=0.5)
    shown_folder = "" if folder == "." else folder
    if near:
        return f"did you mean {' or '.join(os.path.join(shown_folder, each) for each in near)}?"
    if not readable:
        return f"{folder} has no file of a supported type"
    return f"{folder} has {', '.join(readable[:8])}{', …' if len(readable) > 8 else ''}"
