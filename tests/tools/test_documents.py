"""The pages for contributors name modules by their paths: each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGES = [*sorted((REPOSITORY / "docs").rglob("*.md")), REPOSITORY / "CONTRIBUTING.md"]

_PATH = re.compile(r"(?<![\w/.-])((?:ftcli|tools|tests|benchmarks)/[\w/.-]*(?:\.py|/))(?![\w/])")


def paths(text: str) -> set[str]:
    """The files of Python and the folders that a page names; NAME stands for the reader's own."""
    return {path for path in _PATH.findall(text) if "NAME" not in path}


def test_paths_are_seen_where_they_are_code_or_prose() -> None:
    text = "`ftcli/a/b.py`, ftcli/c.py. (ftcli/d/) `ftcli/methods/NAME.py` [x](../ftcli/e.py) `-m ftcli.worker`\n"
    assert paths(text) == {"ftcli/a/b.py", "ftcli/c.py", "ftcli/d/"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_path_that_a_page_names_exists(page: Path) -> None:
    missing = {path for path in paths(page.read_text(encoding="utf-8")) if not (REPOSITORY / path).exists()}
    assert missing == set()


def test_the_walk_through_one_command_names_modules_of_both_halves() -> None:
    named = paths((REPOSITORY / "docs" / "follow-one-command.md").read_text(encoding="utf-8"))
    assert len([path for path in named if path.startswith("ftcli/worker/")]) >= 10
    assert len([path for path in named if not path.startswith("ftcli/worker/")]) >= 10
