"""Choices found by listing a folder."""

from __future__ import annotations

import sys

import pytest

from ftcli.core.declarations import declarations, names_in

FILES = {
    "__init__.py": "",
    "walnut.py": "CHOICE = 'a walnut'\n",
    "almond.py": "CHOICE = 'an almond'\n",
    "helper.py": "OTHER = 1\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """A package of declarations in a temporary folder; its name."""
    name = f"nuts_{abs(hash(request.node.name))}"
    (tmp_path / name).mkdir()
    for file, text in FILES.items():
        (tmp_path / name / file).write_text(text, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_file_in_the_folder_is_a_choice_and_a_helper_is_none(package):
    assert list(declarations(package, "CHOICE").items()) == [("almond", "an almond"), ("walnut", "a walnut")]


def test_names_are_told_without_importing_what_bears_them(package):
    assert names_in(package) == ("almond", "helper", "walnut")
    assert not {f"{package}.{name}" for name in names_in(package)} & sys.modules.keys()
