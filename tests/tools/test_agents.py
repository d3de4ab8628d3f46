"""What agents are given to read: the pages that llms.txt lists, and the page that tells them how to go about it."""

from __future__ import annotations

import re

import pytest

from ftcli.core.exit_codes import EXIT_CODES
from tests.conftest import REPOSITORY
from tests.tools.test_docs import COMMANDS

DOCS = REPOSITORY / "docs"
LISTED = (DOCS / "llms.txt").read_text(encoding="utf-8")
SKILL = (DOCS / "agents.md").read_text(encoding="utf-8")
OF_DEVELOPERS = {"README.md", "architecture.md", "follow-one-command.md", "releasing.md"}


def test_the_list_has_the_form_that_its_readers_know():
    title, quote = LISTED.split("\n\n")[:2]
    assert title == "# ftcli"
    assert all(line.startswith("> ") for line in quote.splitlines())
    assert re.findall(r"^## (.+)$", LISTED, re.M) == ["To use it", "Optional"]


def test_the_list_names_every_page_for_users_once():
    named = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): \S", LISTED, re.M)
    pages = {path.name for path in DOCS.glob("*.md")} - OF_DEVELOPERS
    assert sorted(named) == sorted(pages | {"journeys/README.md"})  # which lists its pages


@pytest.mark.parametrize("name", ["check", "plan", "train", "report", "eval", "verify", "list", "schema"])
def test_the_page_shows_each_step_by_a_command_that_a_test_runs(name):
    shown = re.findall(rf"^ftcli {name} .*$", SKILL, re.M)
    assert shown
    assert set(shown) <= set(COMMANDS)


def test_the_page_is_short_and_has_every_exit_code():
    assert len(SKILL.splitlines()) < 130
    assert all(f"| {code} | " in SKILL for code in EXIT_CODES)
