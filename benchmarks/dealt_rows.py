"""How long the processes of a step wait for the one with the most tokens, of rows as drawn and as they are dealt.

    python benchmarks/dealt_rows.py [--demo FOLDER] [--save]

Counts the tokens of the rows of alpaca_en_demo.json in a random order, and trains nothing. A number is the tokens of
the longest batch of each step over the mean of all its batches: 1 is where no process waits.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from common import save, versions
from contenders.files import make_model
from contenders.run import BUILD, ROOT

LAYOUTS = ((2, 4), (4, 8), (8, 4), (8, 8))
"""Processes, and rows of each."""


def waits(batches: list[list[int]], tokens: list[int], processes: int) -> float:
    """See above."""
    sums = [sum(tokens[row] for row in batch) for batch in batches]
    steps = [sums[first : first + processes] for first in range(0, len(sums), processes)]
    return sum(map(max, steps)) / (sum(sums) / processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the demo sets")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/dealt_rows.json")
    options = parser.parse_args()
    if not options.demo.is_dir():
        print(f"not measured: there are no demo sets in {options.demo}")
        return
    from torch.utils.data import BatchSampler
    from transformers import AutoTokenizer

    from ftcli.worker.distributed.balanced_batches import BalancedBatches

    tokenizer = AutoTokenizer.from_pretrained(make_model(BUILD / "contenders" / "model", options.demo))
    rows = json.loads((options.demo / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    random.Random(0).shuffle(rows)
    tokens = [len(tokenizer("".join(row.values()))["input_ids"]) for row in rows]
    measured: list[dict[str, Any]] = []
    for processes, size in LAYOUTS:
        drawn = BatchSampler(range(len(rows) // (processes * size) * processes * size), size, False)
        found = {"as drawn": list(drawn), "as dealt": list(BalancedBatches(drawn, tokens, processes))}
        each = {name: round(waits(batches, tokens, processes), 3) for name, batches in found.items()}
        measured.append({"processes": processes, "rows": size, **each})
        print(measured[-1])
    if options.save:
        save("dealt_rows", {"schema": 1, "versions": versions(), "num_rows": len(rows), "measured": measured})


if __name__ == "__main__":
    main()
