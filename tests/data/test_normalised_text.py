"""Copies of a row that differ only in how they are written: reported, and apart from exact ones."""

from __future__ import annotations

import pytest

from ftcli.data.files.file_types import DataFile
from ftcli.data.normalised_text import normalised
from ftcli.data.row_ledger import Ledger
from ftcli.data.scan import Scan
from ftcli.methods import get_method
from ftcli.settings.groups import SetSettings
from tests.worker.conftest import write_rows


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  What is\n\tthis? ", "what is this"),
        ("“WHAT IS THIS”", "what is this"),
        ("Ｗｈａｔ　ｉｓ　ｔｈｉｓ？", "what is this"),  # full-width letters, an ideographic space
        ("e\u0301t\u00e9…", "\u00e9t\u00e9"),  # a combining accent, and one character for three dots
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("-5", "-5"),  # a minus sign carries meaning
        ("5", "5"),
        ("f()", "f()"),
        ("?!", "?!"),  # nothing but punctuation stays
        ("a.b", "a.b"),
        ("", ""),
    ],
)
def test_a_text_is_normalised(text, plain):
    assert normalised(text) == plain


def scanned(tmp_path, rows):
    path = write_rows(tmp_path / "rows.jsonl", rows)
    ledger = Ledger("data", str(path))
    examples = list(Scan([DataFile(str(path), "rows")], SetSettings(path=str(path)), get_method("sft"), ledger))
    return ledger.findings, examples


def test_an_exact_copy_and_one_that_is_written_differently_are_told_apart(tmp_path):
    findings, examples = scanned(tmp_path, [
        {"prompt": "What is this?", "completion": "A test."},
        {"prompt": "what  is this", "completion": "a test"},
        {"prompt": "What is this?", "completion": "A test."},
        {"prompt": "What is this?", "completion": "Another test."},
    ])  # fmt: skip
    shown = {kind: [(each["where"], each["what"]) for each in found.first] for kind, found in findings.items()}
    assert shown == {
        "duplicate": [("rows:3", "is the same as rows:1")],
        "normalised duplicate": [("rows:2", "is written a little differently in rows:1")],
    }
    assert len({example.digest for example in examples}) == 3
    assert len({example.alike for example in examples}) == 2
    assert len({example.asked_alike for example in examples}) == 1


def test_roles_and_every_text_inside_a_row_count(tmp_path):
    def turns(asked, said):
        return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}

    findings, _ = scanned(tmp_path, [turns("Hi!", "Hello."), turns("hi", "HELLO"), turns("hi", "Bye")])
    assert [each["where"] for each in findings["normalised duplicate"].first] == ["rows:2"]
