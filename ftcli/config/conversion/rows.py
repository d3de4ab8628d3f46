"""The data sets of a foreign configuration, as `data.path` or as a mix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcli.config.conversion.draft import Draft
from ftcli.core.paths import UNNAMED, home_expanded, is_builtin

ROWS = ("data.path", "data.eval_path")
MODELS = ("model.name_or_path", "method.reward_model", "method.teacher_model")
"""Settings without which it would be another training: they are never taken out, though what they name is not here."""
_FILES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".gz", ".zst")
_SLICE = re.compile(r"(\w[\w-]*)\[(?:0?:)?:?(\d+)(%?)\]$|(\w[\w-]*)\[(\d+)(%?):(\d+)?(%?)\]$")


@dataclass(kw_only=True)
class Rows:
    """One set of rows, in the words of `data.mix.NAME`."""

    path: str | list[str]
    revision: str | None = None
    subset: str | None = None
    split: str | None = None
    format: str | None = None
    columns: dict[str, str] | None = None
    roles: dict[str, str] | None = None
    share_of_set: float | None = None
    rows: int | None = None
    share_of_mix: float | None = None

    def settings(self) -> dict[str, Any]:
        """What is set."""
        return {key: value for key, value in vars(self).items() if value is not None}


def sliced(rows: Rows, split: str) -> str:
    """Set the split of rows from a text such as `train[:10%]`; returns what changes in meaning, or ""."""
    found = _SLICE.match(split)
    if found is None:
        rows.split = split if split.isidentifier() or re.fullmatch(r"[\w.-]+", split) else None
        return "" if rows.split else f"{split} is no split of one name; all rows are read"
    if found[1]:
        rows.split = found[1]
        if found[3]:
            rows.share_of_set = int(found[2]) / 100
        else:
            rows.rows = int(found[2])
        return "so many rows, but drawn by seed, not the first"
    rows.split, start, end = found[4], int(found[5]), int(found[7] or 100)
    if found[6] or found[8]:
        rows.share_of_set = max(1, end - start) / 100
    elif found[7]:
        rows.rows = end - start
    return "so many rows, but drawn by seed, not from that place on"


def write(draft: Draft, sets: Sequence[Rows], order: str | None = None) -> None:
    """Write the sets: one as `data.path`, several as `data.mix`."""
    mix_only = any(s.share_of_set is not None or s.rows is not None or s.share_of_mix is not None for s in sets)
    if len(sets) == 1 and not mix_only:
        for key, value in sets[0].settings().items():
            draft.put(f"data.{key}", value)
        return
    mix: dict[str, Any] = {}
    for each in sets:
        mix[_name(each, mix)] = each.settings()
    draft.put("data.mix", mix)
    if order and len(mix) > 1:
        draft.put("data.mix_order", order)


def _name(rows: Rows, taken: dict[str, Any]) -> str:
    first = rows.path if isinstance(rows.path, str) else rows.path[0]
    parts = [part for part in re.split(r"[/\\]", first) if part]
    stem = parts[-1].split(".")[0] if parts else "rows"
    base = re.sub(r"\W+", "_", stem).strip("_").lower() or "rows"
    base = base if base[0].isalpha() else f"set_{base}"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name


def is_local(path: str) -> bool:
    """Whether a path names a file or folder of a machine rather than a hub set or an address."""
    if "://" in path or path.startswith("builtin:"):
        return False
    return (
        not re.fullmatch(r"[\w./~\\:*?\[\]{}, -]+", path)
        or path.startswith(("/", "./", "../", "~"))
        or path.lower().endswith(_FILES)
        or path.count("/") > 1
    )


def on_this_machine(path: str, file: Path) -> Path | None:
    """Where a local path leads, from the folder of the file that names it, or from the working directory."""
    here = home_expanded(path)
    return next((each for each in (file.resolve().parent / here, Path.cwd() / here) if each.exists()), None)


def whole_files(draft: Draft) -> None:
    """Leave out the split `train` of rows that are a file: other tools give it that name, and it has no other."""
    mix = draft.settings.get("data.mix")
    for each in mix.values() if isinstance(mix, dict) else ():
        if each.get("split") == "train" and _is_file(each["path"]):
            del each["split"]
    if draft.settings.get("data.split") == "train" and _is_file(draft.settings.get("data.path")):
        del draft.settings["data.split"]
        for path, entry in draft.entries.items():
            if entry.after == "data.split=train":
                draft.entries[path] = replace(entry, after="", why="a file is one split")


def _is_file(path: Any) -> bool:
    paths = path if isinstance(path, list) else [path]
    return all(isinstance(each, str) and is_local(each) and each.lower().endswith(_FILES) for each in paths)


def here(draft: Draft) -> bool:
    """Whether the rows are one set, whose files are on this machine."""
    path = draft.settings.get("data.path")
    paths = path if isinstance(path, list) else [path]
    return all(
        isinstance(each, str) and is_local(each) and on_this_machine(each, draft.file.path) is not None
        for each in paths
    )


def missing(draft: Draft) -> None:
    """The file names no rows: the recipe leaves them open, rather than train on something else."""
    draft.put("data.path", UNNAMED, "the file names no rows")
    draft.waits_for.append("data.path=FILE, since the file names no rows")


def leave_open(draft: Draft) -> None:
    """Files and folders of the author's machine, which are not on this one, are named by the recipe's user."""
    for setting in (*ROWS, *MODELS):
        value = draft.settings.get(setting)
        if isinstance(value, str | list):
            paths = [value] if isinstance(value, str) else value
            draft.settings[setting] = _opened(draft, setting, paths) or value
    mix = draft.settings.get("data.mix")
    for name, each in mix.items() if isinstance(mix, dict) else ():
        paths = [each["path"]] if isinstance(each["path"], str) else each["path"]
        each["path"] = _opened(draft, f"data.mix.{name}.path", paths) or each["path"]


def _opened(draft: Draft, setting: str, paths: list[str]) -> str | None:
    """What stands for paths that are not all here; None where they are."""
    absent = [each for each in paths if _is_absent(each, setting, draft.file.path)]
    if not absent:
        return None
    wanted = "MODEL" if setting in MODELS else "FILE"
    draft.waits_for.append(f"{setting}={wanted}, since {', '.join(absent)} is not on this machine")
    if not setting.startswith("data.mix."):
        draft.comments[setting] = f"{', '.join(absent)} is not on this machine"
    why = f"{', '.join(absent)} is not on this machine: name it with {setting}={wanted}"
    holders = ("data.mix", "data.path") if setting.startswith("data.mix.") else (setting,)
    for place, entry in list(draft.entries.items()):
        theirs = [entry.before] if isinstance(entry.before, str) else entry.before
        if entry.inside or entry.list == "silent" or not isinstance(theirs, list):
            continue
        if theirs == paths or (holders[0] != "data.mix" and entry.after.partition("=")[0] in holders):
            draft.entries[place] = replace(entry, list="not_carried", after=f"{setting}={UNNAMED}", why=why)
        elif entry.after.partition("=")[0] in holders or set(absent) & set(map(str, theirs)):
            said = f"{entry.why}; {why}" if entry.why else why
            draft.entries[place] = replace(entry, list="changed", why=said)
    return UNNAMED


def _is_absent(path: str, setting: str, file: Path) -> bool:
    if path == UNNAMED or (setting in MODELS and re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path)):
        return False  # to be named already, or the name of a model on the hub
    return (setting in MODELS or is_local(path)) and not is_builtin(path) and on_this_machine(path, file) is None
