"""The table of docs/models.md says what the chat templates that ship really do."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from ftcli import tiny
from tests.worker.served import TEMPLATES, byte_level, encoder_of, ends_of, needs_parts
from tests.worker.template_families import RESULT, measured, shapes, verdict


@cache
def tiny_with_specials() -> str:
    """The built-in model's tokenizer with the special tokens of every template, as JSON."""
    found = Tokenizer.from_file(str(Path(tiny.MODEL_DIR) / "tokenizer.json"))
    added = [token["content"] for token in json.loads(byte_level())["added_tokens"]]
    found.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    return found.to_str()


def test_the_saved_table_of_template_families_is_what_is_measured() -> None:
    found, saved = measured(), json.loads(RESULT.read_text(encoding="utf-8"))
    assert found["templates"] == saved["templates"], "run python -m tests.worker.template_families, then make docs"


def test_every_perfect_stub_scores_every_row_and_no_refusal_is_without_a_reason() -> None:
    saved = json.loads(RESULT.read_text(encoding="utf-8"))["templates"]
    for name, cells in saved.items():
        refused = [cell for cell in cells.values() if cell.startswith("refused")]
        assert all(len(cell) > len("refused: ") + 10 for cell in refused), name
        assert cells["perfect stub"] == "8 of 8" or cells["single turn"].startswith("refused"), name


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not needs_parts(name)])
def test_the_built_in_tokenizer_comes_to_the_same_verdicts(name: str) -> None:
    saved = json.loads(RESULT.read_text(encoding="utf-8"))["templates"][name]
    encoder = encoder_of(TEMPLATES[name].read_text(encoding="utf-8"), ends_of(name), tiny_with_specials())
    assert {column: verdict(name, *row, encoder) for column, row in shapes().items()} == {
        column: saved[column] for column in shapes()
    }
