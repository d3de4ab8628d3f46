"""A worker's commands: one module each, found by listing the folder."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftcli.core.declarations import declarations, names_in
from tests.conftest import REPOSITORY

PACKAGE = "ftcli.worker.commands"
ASKERS = ("answers", "answered", "started", "run_worker")
"""Functions of the front half that start a worker."""


def worker(*words: str, root: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from ftcli.worker.__main__ import main\n"
        "code = main(sys.argv[1:]); print('torch' in sys.modules, file=sys.stderr); raise SystemExit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd=root,
        env={"PYTHONPATH": str(root), "PATH": ""},
    )  # fmt: skip


def asked_for() -> dict[str, str]:
    """The commands that the front half asks for in plain text, each with a place where it does."""
    found = {}
    for file in sorted((REPOSITORY / "ftcli").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if name in ASKERS:
                words = [*node.args[:1], *(each.value for each in node.keywords if each.arg == "command")]
                texts = [each.value for each in words if isinstance(each, ast.Constant)]
                found |= dict.fromkeys(texts, f"{file.relative_to(REPOSITORY)}:{node.lineno}")
    return found


def test_every_module_in_the_folder_is_a_command():
    assert tuple(declarations(PACKAGE, "COMMAND")) == names_in(PACKAGE)


def test_what_the_front_half_asks_for_is_a_command():
    asked = asked_for()
    assert {"synthesise", "eval", "measure", "chat"} <= asked.keys()
    assert asked.keys() | {"train"} == {*names_in(PACKAGE)}, asked


def test_an_unknown_command_is_refused_with_those_that_there_are_and_nothing_heavy_is_imported():
    done = worker("dance", "request.json")
    assert done.returncode == 1
    assert f"ValueError: no such worker command: dance; there are {', '.join(names_in(PACKAGE))}" in done.stderr
    assert done.stderr.endswith("False\n")


@pytest.fixture
def copy(tmp_path) -> Path:
    """A folder with a copy of the package."""
    shutil.copytree(REPOSITORY / "ftcli", tmp_path / "ftcli", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_file_is_a_command_and_another_commands_module_is_not_imported(copy):
    file = copy / "ftcli" / "worker" / "commands" / "echo.py"
    file.write_text(
        "from ftcli.worker.process.command import lines\n"
        "COMMAND = lines(lambda request: iter(request['rows']), 'echoing')\n",
        "utf-8",
    )
    rows = [{"text": "zwölf"}, {"text": "b"}]
    (copy / "request.json").write_text(json.dumps({"rows": rows}), "utf-8")
    done = worker("echo", "request.json", root=copy)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == rows
    assert done.stderr.endswith("False\n")
