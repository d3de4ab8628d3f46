"""What is wrong with a plugin: every module of it parsed, then imported, then held against the contract of its kind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.plugins.plugin_loading import KINDS, Plugin, blame, imported, mounted
from ftcli.core.plugins.plugin_places import CONFIGS

BINDS = {
    "methods": ("METHOD", "PIPELINE"), "peft_methods": ("METHODS",), "profiles": ("PROFILE",),
    "formats": ("FORMAT",), "rewards": ("REWARD",), "trackers": ("TRACKER",),
}  # fmt: skip
"""What a module of each kind binds; one that binds nothing of it is a helper of the others."""


@dataclass(frozen=True)
class Verdict:
    """A plugin: what it declares, by kind, and what is wrong with it."""

    declares: dict[str, list[str]]
    problems: list[Problem]


def examined(plugin: Plugin) -> Verdict:
    """All that a plugin declares, held against the contracts."""
    unread = [problem for path in sorted(plugin.folder.rglob("*.py")) for problem in _unreadable(path)]
    if unread:
        return Verdict({}, unread)
    declares, problems = dict[str, list[str]](), list[Problem]()
    for kind, package in KINDS.items():
        try:
            mounted(package)
        except ConfigError as error:
            problems += error.problems
            continue
        for name, path in plugin.modules(kind).items():
            try:
                module = imported(f"{package}.{name}")
                bound = [each for each in BINDS[kind] if hasattr(module, each)]
                for attribute in bound:
                    declares.setdefault(kind, []).extend(_names(name, getattr(module, attribute), attribute))
                    problems += _guarded(kind, name, module, attribute, f"{path}:1")
            except ConfigError as error:
                problems += error.problems
    if not declares and not problems and not (plugin.folder / CONFIGS).is_dir():
        problems.append(Problem(str(plugin.folder), "declares nothing", "docs/extending.md shows one of each kind"))
    return Verdict(declares, [*dict.fromkeys(problems)])


def _unreadable(path: Path) -> Iterator[Problem]:
    try:
        ast.parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        yield Problem(f"{path}:{error.lineno}", f"is no Python: {error.msg}", "mend that line")
    except (OSError, ValueError) as error:
        yield Problem(f"{path}:1", f"cannot be read: {error}", "write it in UTF-8")


def _names(name: str, declared: Any, attribute: str) -> list[str]:
    if attribute == "METHODS" and isinstance(declared, tuple | list):
        return [str(getattr(each, "name", name)) for each in declared]
    return [name]


def _guarded(kind: str, name: str, module: ModuleType, attribute: str, where: str) -> list[Problem]:
    """The problems of one declaration; an error that its own code raises is one."""
    try:
        return [*_problems(kind, name, module, attribute, where)]
    except ConfigError as error:
        return [*error.problems]
    except Exception as error:
        fault = blame(error)
        if fault is None:
            raise
        return [fault]


def _problems(kind: str, name: str, module: ModuleType, attribute: str, where: str) -> Iterator[Problem]:
    # Only here: what is imported imports every declaration, and one that fails is told by its own file first.
    from ftcli.contracts import choice_contracts, function_contracts

    declared, example = getattr(module, attribute), getattr(module, "EXAMPLE", None)
    match kind:
        case "methods" if attribute == "METHOD":
            yield from choice_contracts.method_problems(name, declared, where)
        case "peft_methods":
            for each in declared if isinstance(declared, tuple | list) else [declared]:
                yield from choice_contracts.peft_problems(str(getattr(each, "name", name)), each, where)
        case "profiles":
            yield from choice_contracts.profile_problems(name, declared, where)
        case "formats":
            yield from function_contracts.format_problems(name, declared, example, where)
        case "rewards":
            yield from function_contracts.reward_problems(name, declared, example, where)
        case "trackers":
            yield from choice_contracts.tracker_problems(name, declared, where)
