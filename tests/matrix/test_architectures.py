"""Every causal-LM architecture of the installed transformers: `make test` proves a spread, `make matrix` all.

A part of them: `FTCLI_MATRIX=1 python -m pytest tests/matrix/test_architectures.py -k qwen`. What came of each is kept
in benchmarks/results/architectures.json, from which tools/docs.py makes a table.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import RESULTS, save, versions
from tests.matrix.architectures import EVERY, FAILING, SPREAD, TRAINED
from tests.matrix.prove_architecture import measured, prove

WHOLE = os.environ.get("FTCLI_MATRIX") == "1"
FILE = RESULTS / "architectures.json"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What came of each architecture; a part of them, as -k chooses it, leaves the others as they were."""
    if not (WHOLE and FILE.is_file()):
        return {}
    known: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))["architectures"]
    return known


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", EVERY if WHOLE else SPREAD)
def test_an_architecture_is_counted_trained_resumed_reloaded_and_merged(
    model_type: str, tmp_path: Path, found: dict[str, Any]
) -> None:
    result: dict[str, Any] = {"trained": False}
    found[model_type] = result
    known = FAILING.get(model_type)
    try:
        facts, layout = measured(model_type, tmp_path)
        result.update(facts)
        if WHOLE or model_type in TRAINED:
            prove(model_type, tmp_path, layout)
            result["trained"] = True
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if known is None or known.error not in text:
            result["failed"] = text.strip().splitlines()[0][:200]
            raise
        result["failed"] = known.why
    else:
        assert known is None, "it no longer fails: strike it out of FAILING"
    finally:
        _keep(found)


def _keep(found: dict[str, Any]) -> None:
    """Written after each, so that a run that is interrupted loses nothing."""
    if WHOLE:
        ordered = {name: found[name] for name in EVERY if name in found}
        known = {"schema": 1, "versions": versions(), "of": len(EVERY), "architectures": ordered}
        save("architectures", known)


def test_every_known_failure_is_of_an_architecture_that_exists() -> None:
    assert set(FAILING) <= set(EVERY)
    assert not set(FAILING) & set(SPREAD)
