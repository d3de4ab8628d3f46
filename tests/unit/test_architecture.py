"""The two halves stay apart, one room prints, and a method is two files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftcli import assets
from ftcli.methods import all_methods, all_pipelines
from ftcli.peft_methods import PEFT_METHODS
from tests.conftest import REPOSITORY

HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "safetensors"}
PACKAGE = REPOSITORY / "ftcli"
WORKER = ("worker", "trainers", "tuners")
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The first folder, or the file's own name."""
    return path.relative_to(PACKAGE).parts[0]


def imported(path: Path) -> Iterator[str]:
    """Top-level names of everything that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if room(p) not in WORKER], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_the_front_half_imports_nothing_heavy_and_nothing_of_the_worker(path):
    names = list(imported(path))
    assert not {name.split(".")[0] for name in names} & HEAVY
    assert not [name for name in names if name.startswith(tuple(f"ftcli.{room}." for room in WORKER))]
    assert not {f"ftcli.{room}" for room in WORKER} & set(names)


@pytest.mark.parametrize("path", [p for p in SOURCES if room(p) in WORKER], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_worker_knows_nothing_of_argv_hydra_or_recipes(path):
    forbidden = (
        "hydra",
        "ftcli.cli",
        "ftcli.compose",
        "ftcli.overrides",
        "ftcli.build",
        "ftcli.recipes",
        "ftcli.launch",
    )
    assert not [name for name in imported(path) if name.startswith(forbidden)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_rooms_one_can_see_across(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_only_compose_and_overrides_import_hydra():
    users = {path.stem for path in SOURCES if any(name.split(".")[0] == "hydra" for name in imported(path))}
    assert users == {"compose", "overrides"}


def test_a_method_is_one_file_and_one_choice():
    assert {*all_methods(), *all_pipelines()} == set(assets.choices("method"))
    assert not set(all_methods()) & set(all_pipelines())
    assert {"none", *PEFT_METHODS} == set(assets.choices("peft"))
    assert all(method.name == name for name, method in all_methods().items())


def test_no_branch_asks_for_a_method_by_name():
    names = {*all_methods(), *all_pipelines()}
    for path in SOURCES:
        if room(path) in ("methods", "docs.py", "tiny"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                compared = [c.value for c in (node.left, *node.comparators) if isinstance(c, ast.Constant)]
                assert not names & {value for value in compared if isinstance(value, str)}, f"{path}:{node.lineno}"
