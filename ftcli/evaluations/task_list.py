"""What `--tasks` and `--task-data` name: tasks of lm-evaluation-harness, and files of one's own."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ftcli.core.errors import ConfigError, Problem
from ftcli.evaluations.task_files import Task, read_task

EXTRA = "pip install 'ftcli[eval]'"
_NAME = re.compile(r"[\w.+-]{1,100}")
_ENDS = (".yaml", ".yml")


def require_harness() -> None:
    """Check that lm-evaluation-harness is installed.

    Raises:
        ConfigError: it is not.
    """
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        what = "measures with lm-evaluation-harness, which is not installed"
        raise ConfigError(Problem("--tasks", what, EXTRA))


def named_tasks(text: str, folders: Sequence[str], grants: frozenset[str]) -> list[Task]:
    """The tasks that a comma-separated list names.

    Args:
        folders: TASK=FOLDER, each the rows of a task in place of those that it names.
        grants: the flags of this command line.

    Raises:
        ConfigError: a task or folder that is none; every problem of every file.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError(Problem("--tasks", "names no task", "--tasks gsm8k,my.yaml"))
    rows, found, problems = _folders(folders), list[Task](), list[Problem]()
    for name in names:
        try:
            found.append(_task(name, rows, grants))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    known = [task.name for task in found]
    if unused := sorted(rows.keys() - {*known}):
        what = f"{unused[0]} is not among --tasks"
        raise ConfigError(Problem(f"--task-data {unused[0]}=…", what, f"name one of {', '.join(known)}"))
    if twice := sorted(name for name in set(known) if known.count(name) > 1):
        raise ConfigError(Problem("--tasks", f"{twice[0]} is named twice", "name it once"))
    return found


def _folders(given: Sequence[str]) -> dict[str, str]:
    """TASK=FOLDER as a mapping to absolute paths."""
    found = {}
    for each in given:
        name, equals, folder = each.partition("=")
        if not equals or not name:
            raise ConfigError(Problem(f"--task-data {each}", "names no task", "--task-data gsm8k=FOLDER"))
        path = os.path.realpath(os.path.expanduser(folder))
        if not os.path.isdir(path):
            raise ConfigError(Problem(f"--task-data {each}", f"{folder} is no folder", "name one with its rows"))
        found[name] = path
    return found


def _task(name: str, rows: dict[str, str], grants: frozenset[str]) -> Task:
    path = Path(os.path.expanduser(name))
    if name.endswith(_ENDS):
        return read_task(path.absolute(), grants, rows)
    if not _NAME.fullmatch(name):
        raise ConfigError(Problem(f"--tasks {name}", "is neither a file nor the name of a task", "--tasks gsm8k"))
    return Task(name, rows.get(name))
