"""The table of docs/models.md says what the chat templates that ship really do."""

from __future__ import annotations

import json

from tests.worker.template_families import RESULT, measured


def test_the_saved_table_of_template_families_is_what_is_measured() -> None:
    found, saved = measured(), json.loads(RESULT.read_text(encoding="utf-8"))
    assert found["templates"] == saved["templates"], "run python -m tests.worker.template_families, then make docs"


def test_every_perfect_stub_scores_every_row_and_no_refusal_is_without_a_reason() -> None:
    saved = json.loads(RESULT.read_text(encoding="utf-8"))["templates"]
    for name, cells in saved.items():
        refused = [cell for cell in cells.values() if cell.startswith("refused")]
        assert all(len(cell) > len("refused: ") + 10 for cell in refused), name
        assert cells["perfect stub"] == "8 of 8" or cells["single turn"].startswith("refused"), name
