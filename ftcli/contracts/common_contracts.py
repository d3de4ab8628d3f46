"""What the contracts of several kinds of declaration share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.core import assets
from ftcli.core.errors import ConfigError, FtcliError, Problem
from ftcli.core.strict_yaml import load
from ftcli.core.suggest import suggest
from ftcli.core.text import shell_word
from ftcli.plan.outlook import plan
from ftcli.settings.library_fields import class_definition, fields_of
from ftcli.settings.ownership import FLAGS

_TINY = ("model=tiny", "data.max_rows=32", "hardware.num_threads=1")


def summary_problems(kind: str, summary: Any, where: str) -> Iterator[Problem]:
    """A summary is one sentence on one line: lists and tables print it."""
    if (
        not isinstance(summary, str)
        or not summary.strip()
        or "\n" in summary.strip()
        or summary.strip()[-1] not in ".?!"
    ):
        yield Problem(where, f"the summary of the {kind} is no sentence on one line", "summary='When to choose it.'")


def name_problems(kind: str, name: str, declared: Any, where: str) -> Iterator[Problem]:
    """A module is called as what it declares."""
    if declared != name:
        yield Problem(
            where, f"declares the {kind} {declared!r}", f"call the module {declared}.py, or the {kind} {name!r}"
        )


def class_problems(what: str, path: str, where: str, *, has_fields: bool = False) -> Iterator[Problem]:
    """A class that a declaration names exists; its source is looked up, and nothing is imported."""
    module, _, name = path.partition(":")
    try:
        found = class_definition(module, name) if name else None
        if found is not None and has_fields:
            fields_of(path)
    except (LookupError, ModuleNotFoundError, OSError):
        found = None
    if found is None:
        fix = "write module:Class; a module of a plugin lies in its folder, and has a name like no installed package's"
        yield Problem(where, f"its {what} {path!r} is no class that can be found", fix)


def field_problems(
    what: str, names: Iterable[str], config: str, where: str, more: Iterable[str] = ()
) -> Iterator[Problem]:
    """Fields that a declaration names are fields of its config class."""
    known = {*fields_of(config), *more}
    for name in names:
        if name not in known:
            yield Problem(where, f"its {what} name {name}, which is no field of {config}", suggest(name, known, ""))


def choice_problems(group: str, name: str, where: str) -> Iterator[Problem]:
    """A choice has a group file, which opens with a line on what it is for."""
    file = assets.choices(group).get(name)
    if file is None:
        fix = f"write configs/{group}/{name}.yaml: a comment of one line, and its settings"
        yield Problem(where, f"{group}={name} has no group file", fix)
        return
    try:
        text, data = file.read_text(encoding="utf-8"), load(file).data
    except ConfigError as error:
        yield from error.problems
        return
    if not text.startswith("# ") or not assets.first_comment(file):
        yield Problem(f"{file}:1", "does not open with a comment on what it is for", "# One line, which lists print.")
    if group in ("method", "peft") and data.get("name") != name:
        yield Problem(f"{file}:1", f"has name: {data.get('name')}, and is the file of {name}", f"name: {name}")


def composed_problems(words: Iterable[str], where: str) -> Iterator[Problem]:
    """A run of the built-in model with these words has no problem, and can be planned."""
    overrides = (*_TINY, *words)
    try:
        plan(run_of(Request(overrides=overrides, grants=FLAGS)))
    except FtcliError as error:
        typed = " ".join(map(shell_word, overrides))
        for problem in error.problems:
            yield Problem(problem.where or where, f"ftcli plan {typed} fails: {problem.what}", problem.fix or "mend it")


def one_of(what: str, values: Iterable[str], known: Mapping[str, Any] | Iterable[str], where: str) -> Iterator[Problem]:
    """Values are among those that exist."""
    names = [*known]
    for value in values:
        if value not in names:
            yield Problem(where, f"its {what} is {value!r}", suggest(str(value), names, ""))


def place(path: Path | None, name: str) -> str:
    """Where a declaration is, for messages."""
    return f"{path}:1" if path is not None else name
