"""The digest that keeps a cache from answering for another version of the code."""

from pathlib import Path

import pytest

from ftcli.core.code_digest import code_digest
from ftcli.plan import token_cache
from ftcli.worker.tokenise import store


def package(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_a_change_in_a_folder_below_changes_the_digest(tmp_path):
    one = package(tmp_path / "one", data__files__reader="a = 1\n", other="b = 1\n")
    two = package(tmp_path / "two", data__files__reader="a = 2\n", other="b = 1\n")
    assert code_digest("data", package=one) != code_digest("data", package=two)
    assert code_digest("other.py", package=one) == code_digest("other.py", package=two)


def test_a_file_under_another_name_changes_the_digest(tmp_path):
    one = package(tmp_path / "one", data__reader="a = 1\n")
    two = package(tmp_path / "two", data__scan="a = 1\n")
    assert code_digest("data", package=one) != code_digest("data", package=two)


def test_what_moved_away_is_an_error_and_never_a_key_without_it():
    with pytest.raises(FileNotFoundError):
        code_digest("tokencount.py")
    assert code_digest(*store.CODE) != code_digest(*token_cache.CODE)
