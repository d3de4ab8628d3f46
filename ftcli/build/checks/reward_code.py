"""Whether the Python functions that give rewards exist, without importing them: their modules may need minutes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.core.errors import Problem
from ftcli.core.module_source import function_source, is_file_of_code
from ftcli.plan.resolved_run import ResolvedRun

_FORM = "write file.py:function, or package.module:function with a module that can be imported here"


def problems(name: str, content: Mapping[str, Any], run: ResolvedRun, at: str) -> Iterator[Problem]:
    """The problem of each entry of `method.reward_functions` that names no function, or has no weight."""
    for function, weight in content.items():
        module, sign, attribute = str(function).rpartition(":")
        parts = [attribute] if is_file_of_code(module) else [*module.split("."), attribute]
        if not sign or not all(part.isidentifier() for part in parts):
            what = f"{function!r} in {name} is neither file.py:function nor package.module:function"
            yield Problem(at, what, _FORM)
            continue
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            yield Problem(at, f"the weight of {function} is {weight!r}, which is not a number", "give a number")
        found, file, _ = function_source(str(function))
        if not found and is_file_of_code(module):
            yield Problem(at, f"{function} cannot be read: there is no file {module}", "name a file that is there")
        elif not found:
            fix = f"{_FORM}: one that is installed, or in a folder that PYTHONPATH names"
            yield Problem(at, f"{function} cannot be imported: there is no module {module}", fix)
        elif file is not None and not _defines(file, attribute):
            yield Problem(at, f"{file} defines no {attribute}", "name a function of it")


def _defines(file: Path, name: str) -> bool:
    """Whether a module's source binds a name; True where it cannot be known, or the source does not parse here."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    for node in ast.walk(tree):
        made = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if isinstance(node, made) and node.name in (name, "__getattr__"):
            return True
        imported = node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if any(alias.name == "*" or (alias.asname or alias.name) == name for alias in imported):
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
    return False
