"""The matrix of docs/matrix.md: `make test` proves a spread of it, `make matrix` all of it, and writes the page.

A part of it again: `FTCLI_MATRIX=1 python -m pytest tests/matrix -k reward-lora`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import RESULTS, save, versions
from tests.matrix.cells import CELLS, OTHER_CELLS, PREFERENCE_CELLS, SPREAD, Cell
from tests.matrix.prove import prove, refusal

WHOLE = os.environ.get("FTCLI_MATRIX") == "1"
EVERY = [*CELLS, *PREFERENCE_CELLS, *OTHER_CELLS]


@pytest.fixture(scope="session")
def found() -> Iterator[dict[str, Any]]:
    """What came of each cell; written down when all have been through."""
    results: dict[str, Any] = {}
    yield results
    if WHOLE:  # a part of the cells, as -k chooses it, leaves the others as they were
        path = RESULTS / "matrix.json"
        before = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else []
        known = {**{str(Cell(each["method"], each["peft"], each["quantisation"])): each for each in before}, **results}
        cells = [known[str(cell)] for cell in EVERY if str(cell) in known]
        save("matrix", {"schema": 1, "versions": versions(), "cells": cells})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cell", EVERY if WHOLE else SPREAD, ids=str)
def test_a_cell_trains_reloads_resumes_and_merges(cell: Cell, tmp_path: Path, found: dict[str, Any]) -> None:
    found[str(cell)] = result = asdict(cell)
    reason = refusal(cell, tmp_path / "run")
    if reason is not None:
        result["refused"] = reason
        return  # held by test_impossible.py
    result["failed"] = True
    result.update(prove(cell, tmp_path))
    del result["failed"]
