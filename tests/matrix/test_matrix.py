"""The matrix of docs/matrix.md: `make test` proves a spread of it, `make matrix` all of it, and writes the page."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.matrix.cells import CELLS, OTHER_CELLS, SPREAD, Cell
from tests.matrix.prove import prove, refusal

WHOLE = os.environ.get("FTCLI_MATRIX") == "1"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "matrix.json"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def found() -> Iterator[dict[str, Any]]:
    """What came of each cell; written down when all have been through."""
    results: dict[str, Any] = {}
    yield results
    if WHOLE:  # a part of the cells, as -k chooses it, leaves the others as they were
        before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
        names = [str(cell) for cell in (*CELLS, *OTHER_CELLS)]
        together = {name: {**before, **results}[name] for name in names if name in {**before, **results}}
        RESULTS.write_text(json.dumps(together, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cell", [*CELLS, *OTHER_CELLS] if WHOLE else SPREAD, ids=str)
def test_a_cell_trains_reloads_resumes_and_merges(cell: Cell, tmp_path: Path, found: dict[str, Any]) -> None:
    reason = refusal(cell, tmp_path / "run")
    if reason is not None:
        found[str(cell)] = {"refused": reason}
        return  # held by test_impossible.py
    found[str(cell)] = {"failed": True}
    found[str(cell)] = prove(cell, tmp_path)
