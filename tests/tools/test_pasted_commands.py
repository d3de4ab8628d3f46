"""Commands that are printed can be pasted: what is put into one is quoted for the shell."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import REPOSITORY
from tools.source_tree import dotted, read_house

HOUSE = read_house(REPOSITORY / "ftcli")
_NAMES = "chat|eval|generate|merge|report|score|train|check|plan|data|sample"
_COMMAND = re.compile(rf"(?:ftcli (?:{_NAMES}) |\bsh )[^;:,()<]*$")
QUOTES = ("shell_word", "shlex.quote", "shlex.join")
PLAIN = frozenset(
    {"group", "other", "choice", "owner", "override.name", "options.action", "method.next_method", "flag"}
)
"""What has no character that a shell reads: the names of groups, choices and methods; so do constants."""


def unquoted(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and source of what f-strings put behind a command without quoting it; `where` of an error is no command."""
    found = []
    quoted = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and any(name in ast.unparse(node.value) for name in QUOTES)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    places = {id(node.args[0]) for node in ast.walk(tree) if _is_problem(node)}
    places |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign) and _names_place(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr) or id(node) in places:
            continue
        before = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                before += str(part.value)
                continue
            assert isinstance(part, ast.FormattedValue)
            source = ast.unparse(part.value)
            safe = source in quoted | PLAIN or source.isupper() or any(source.startswith(f"{name}(") for name in QUOTES)
            if _COMMAND.search(before) and not safe:
                found.append((part.lineno, source))
            before += "X"
    return found


def _is_problem(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func).endswith("Problem") and bool(node.args)


def _names_place(node: ast.Assign) -> bool:
    names = [target for each in node.targets for target in (each.elts if isinstance(each, ast.Tuple) else [each])]
    return isinstance(names[0], ast.Name) and names[0].id == "where"


@pytest.mark.parametrize("name", sorted(HOUSE.modules))
def test_whatever_is_put_into_a_printed_command_is_quoted(name: str) -> None:
    assert unquoted(HOUSE.modules[name].tree) == []


def test_the_check_finds_what_it_is_for() -> None:
    assert unquoted(ast.parse('fix = f"start it with ftcli train --from {run}"')) == [(1, "run")]
    assert unquoted(ast.parse('fix = f"ftcli train --from {shell_word(run)}"')) == []
    assert unquoted(ast.parse('word = shell_word(run)\nfix = f"ftcli train --from {word} {x}"')) == [(2, "x")]
    assert unquoted(ast.parse('Problem(f"ftcli merge {run}", what)')) == []
