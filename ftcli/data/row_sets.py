"""The data sets that a run reads, and where their files are."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from ftcli import tiny
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import BUILTIN, BUILTIN_SETS, home_expanded, is_builtin
from ftcli.data.files.delimited import delimiter_of
from ftcli.data.files.file_types import same_file_twice
from ftcli.data.files.locate import DataFile, SourcePath, is_local, locate
from ftcli.data.path_list import path_text
from ftcli.methods.method import Method
from ftcli.settings.groups import DataSettings, SetSettings

WRITTEN = ("format", "delimiter", "columns", "roles", "margin_column", "trained_turns", "template")
"""The settings of a set that say how its rows are written and read."""
_TWICE = "name it once; data.mix.NAME.repeat repeats the rows of a set"


def builtin_name(path: str, method: Method) -> str:
    """The built-in set that a path names; builtin:tiny is the one for the method's task."""
    return method.task if path == BUILTIN else path.removeprefix(BUILTIN_SETS)


def set_file(path: str, split: str) -> str:
    """The file of a built-in set's "train" or "eval" split; any other path is unchanged."""
    return str(tiny.set_path(path.removeprefix(BUILTIN_SETS), split)) if is_builtin(path) else path


def absolute(path: str) -> str:
    """A local path made absolute; a URL, a hub set and a built-in set are unchanged."""
    return os.path.realpath(home_expanded(path)) if not is_builtin(path) and is_local(path) else path


def all_absolute(path: str | list[str]) -> str | list[str]:
    """`absolute` of a path, or of each one of a list."""
    return absolute(path) if isinstance(path, str) else [absolute(each) for each in path]


@dataclass(frozen=True, kw_only=True)
class RowSet:
    """One data set that a run reads."""

    name: str
    key: str
    """The setting that names it, as errors print it."""
    settings: SetSettings

    @property
    def path(self) -> str:
        """Where its rows are, as a person reads it."""
        return path_text(self.settings.path)


def located(row_set: RowSet, where: str, *, fetch: bool) -> tuple[DataFile, ...] | None:
    """The files of a set in order; None if only the network could tell and `fetch` is false.

    Args:
        where: what named the set, as errors print it.

    Raises:
        ConfigError: there are none, or a file is named twice.
    """
    files = _located(row_set.settings, where, fetch=fetch)
    delimiter = row_set.settings.delimiter
    if files is None or delimiter == "auto":
        return files
    return tuple(replace(file, delimiter=delimiter_of(delimiter) or "") for file in files)


def _located(s: SetSettings, where: str, *, fetch: bool) -> tuple[DataFile, ...] | None:
    if isinstance(s.path, str):
        return locate(SourcePath(path=s.path, revision=s.revision, subset=s.subset, split=s.split), where, fetch=fetch)
    files: dict[str, DataFile] = {}
    for path in s.path:
        found = locate(SourcePath(path=path, revision=s.revision, subset=s.subset, split=s.split), where, fetch=fetch)
        if found is None:
            return None
        for file in found:
            if file.path in files:
                raise ConfigError(Problem(where, f"{file.name} is named twice; its rows would count twice", _TWICE))
            files[file.path] = file
    if pair := same_file_twice(files):
        raise ConfigError(
            Problem(where, f"{pair[0]} and {pair[1]} are the same file; its rows would count twice", _TWICE)
        )
    return tuple(files.values())


def fetched(row_set: RowSet) -> tuple[DataFile, ...]:
    """The files of a set in order, looked up over the network if necessary.

    Raises:
        ConfigError: there are none.
    """
    files = located(row_set, row_set.key, fetch=True)
    assert files is not None  # with fetch, `locate` finds the files or raises
    return files


def every_set(data: DataSettings, method: Method) -> list[RowSet]:
    """The sets that a run reads: those trained on, and the held-out one where there is one."""
    held_out = eval_set(data, method)
    return [*train_sets(data, method), *([held_out] if held_out else [])]


def train_sets(data: DataSettings, method: Method) -> tuple[RowSet, ...]:
    """The sets whose rows are trained on: one, or those of the mix."""
    if data.mix is not None:
        return tuple(
            RowSet(name=name, key=f"data.mix.{name}.path", settings=_of_mix(SetSettings(**settings), method))
            for name, settings in data.mix.items()
        )
    assert data.path is not None
    if isinstance(data.path, str) and is_builtin(data.path):
        own = SetSettings(path=str(tiny.set_path(builtin_name(data.path, method), "train")), **_of_builtin(data))
        return (RowSet(name="tiny", key="data.path", settings=own),)
    settings = SetSettings(
        path=data.path, revision=data.revision, subset=data.subset, split=data.split, **_written(data)
    )
    return (RowSet(name="data", key="data.path", settings=settings),)


def _of_mix(settings: SetSettings, method: Method) -> SetSettings:
    if not isinstance(settings.path, str) or not is_builtin(settings.path):
        return settings
    return replace(settings, path=str(tiny.set_path(builtin_name(settings.path, method), "train")))


def eval_set(data: DataSettings, method: Method) -> RowSet | None:
    """The set of held-out rows, or None where there is none (a share of the training rows may still be held out)."""
    path = data.eval_path
    if path is None and data.eval_share == 0 and data.mix is None and is_builtin(data.path):
        path = data.path  # its own eval split
    if isinstance(path, str) and is_builtin(path):
        if path != BUILTIN and builtin_name(path, method) not in tiny.set_names():
            return None  # the checks report it
        own = SetSettings(path=str(tiny.set_path(builtin_name(path, method), "eval")), **_of_builtin(data))
        return RowSet(name="eval", key="data.eval_path", settings=own)
    if data.eval_path is None:
        return None
    settings = SetSettings(path=data.eval_path, **_written(data))
    return RowSet(name="eval", key="data.eval_path", settings=settings)


def holds_out(data: DataSettings, method: Method) -> bool:
    """Whether a run has held-out rows: a set of them, or a share of its training rows."""
    return data.eval_share > 0 or eval_set(data, method) is not None


def _of_builtin(data: DataSettings) -> dict[str, Any]:
    """The settings that apply to built-in sets too; their format is known."""
    return {name: getattr(data, name) for name in ("margin_column", "trained_turns")}


def _written(data: DataSettings) -> dict[str, Any]:
    """How rows are written and read, the same for training and held-out rows."""
    return {name: getattr(data, name) for name in WRITTEN}
