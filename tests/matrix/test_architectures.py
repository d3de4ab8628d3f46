"""Every causal-LM architecture of the installed transformers: `make test` proves a spread, `make matrix` all.

A part of them: `FTCLI_MATRIX=1 python -m pytest tests/matrix/test_architectures.py -k qwen`. What came of each is kept
in benchmarks/results/architectures.json, from which tools/docs.py makes a table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import RESULTS, save, versions
from tests.matrix.architectures import EVERY, SPREAD, TRAINED
from tests.matrix.prove_architecture import measured, prove

WHOLE = os.environ.get("FTCLI_MATRIX") == "1"
FILE = RESULTS / "architectures.json"


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Any]]:
    """What came of each architecture; a part of them, as -k chooses it, leaves the others as they were."""
    results: dict[str, Any] = {}
    yield results
    if WHOLE:
        before = json.loads(FILE.read_text(encoding="utf-8"))["architectures"] if FILE.is_file() else {}
        both = {**before, **results}
        ordered = {name: both[name] for name in EVERY if name in both}
        save("architectures", {"schema": 1, "versions": versions(), "architectures": ordered})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", EVERY if WHOLE else SPREAD)
def test_an_architecture_is_counted_trained_resumed_reloaded_and_merged(
    model_type: str, tmp_path: Path, found: dict[str, Any]
) -> None:
    try:
        facts, layout = measured(model_type, tmp_path)
        found[model_type] = {**facts, "trained": False}
        if WHOLE or model_type in TRAINED:
            prove(model_type, tmp_path, layout)
            found[model_type]["trained"] = True
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        found.setdefault(model_type, {})["failed"] = f"{type(error).__name__}: {lines[0][:200]}"
        raise
