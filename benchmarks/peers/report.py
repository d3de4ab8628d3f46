"""The clock and the one line of JSON that each adapter prints."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "ftcli" / "worker" / "peers"))
"""What drives a peer for `ftcli recipe import --prove` is used here too; ftcli itself is not installed there."""

LONGEST = 4096
"""Length limit in tokens that every tool is given; no row reaches it."""


def run(prepare: Callable[[Path, Path, int], Any], package: str) -> None:
    """Time `prepare(rows, tokenizer, num_proc)` with the arguments of the command line and print what it made."""
    rows, tokenizer, num_proc = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), int(sys.argv[3])
    began, worked = time.perf_counter(), sum(os.times()[:4])
    dataset = prepare(rows, tokenizer, num_proc)
    seconds, worked = time.perf_counter() - began, sum(os.times()[:4]) - worked
    found = {
        "seconds": seconds,
        "cpu_seconds": worked,
        "rows": len(dataset),
        "tokens": _tokens(dataset),
        "version": metadata.version(package),
        "libraries": {name: metadata.version(name) for name in ("transformers", "tokenizers", "datasets")},
    }
    print("\n" + json.dumps(found), flush=True)


def _tokens(dataset: Any) -> int:
    """How many tokens there are, from the ids, or from the lengths where a tool keeps only those."""
    import pyarrow.compute as pc

    name = "input_ids" if "input_ids" in dataset.column_names else "lengths"
    column = dataset.select_columns([name]).with_format("arrow")[:][name]
    total = pc.sum(pc.list_value_length(column) if name == "input_ids" else pc.list_flatten(column))
    return int(total.as_py())
