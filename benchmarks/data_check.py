"""How long the row check takes: `ftcli data check FILE --rows-only` over 100 MB, each run in a fresh process.

    python benchmarks/data_check.py [--against CHECKOUT] [--save]

Two files: conversations of two to six turns, 2.4 kB a row, and Alpaca rows of 0.9 kB, both as long as those of the
published sets, every tenth text not of ASCII alone, and one row in a thousand with a fault or something suspicious in
it. Prints the median of three runs in seconds per 100 MB against the limit of 5 s; `--save` also writes
benchmarks/results/data_check.json. A measurement, not a test: a busy machine fails it. With another checkout of this
repository both run alternately, and the median ratios of their processor times and of their memory are told too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Cost, cost_of, save, versions

ROOT = Path(__file__).resolve().parent.parent
RUNS = 3
LIMIT_SECONDS = 5.0
BYTES = 100_000_000
_ONE_IN = 1000
_WORDS = (
    *("the", "of", "and", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with", "his"),
    *(
        "they",
        "at",
        "be",
        "this",
        "have",
        "from",
        "or",
        "one",
        "had",
        "by",
        "word",
        "but",
        "not",
        "what",
        "all",
        "were",
    ),
)
_FOREIGN = ("naïve", "été", "…", "“so”", "日本")


def _said(random_: random.Random, most: int) -> str:
    words = random_.choices(_WORDS, k=random_.randint(4, most))
    if random_.random() < 0.1:
        words += random_.choices(_FOREIGN, k=3)
    return " ".join(words)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _conversation(random_: random.Random) -> dict[str, Any]:
    turns = []
    for _ in range(random_.randint(1, 3)):
        turns += [_turn("user", _said(random_, 120)), _turn("assistant", _said(random_, 450))]
    return {"messages": turns}


def _alpaca(random_: random.Random) -> dict[str, Any]:
    return {"instruction": _said(random_, 25), "input": "", "output": _said(random_, 360)}


def _odd_conversation(random_: random.Random) -> str:
    asked, given = _turn("user", _said(random_, 20)), _turn("assistant", "{{name}} it is")
    rows = ([asked], [asked, given], [given, asked], [asked, _turn("assistant", "")])
    return random_.choice(('{"messages": [', *(json.dumps({"messages": turns}) for turns in rows)))


def _odd_alpaca(random_: random.Random) -> str:
    asked = _said(random_, 20)
    outputs = ("", None, 3, "{{name}} it is", asked)
    return random_.choice(('{"out', *(json.dumps({"instruction": asked, "output": each}) for each in outputs)))


SHAPES = {"conversations": (_conversation, _odd_conversation), "alpaca": (_alpaca, _odd_alpaca)}


def written(path: Path, shape: str) -> int:
    """Write the file; returns its number of rows."""
    good, odd = SHAPES[shape]
    random_, rows, size = random.Random(0), 0, 0
    with open(path, "w", encoding="utf-8") as file:
        while size < BYTES:
            spoilt = rows % _ONE_IN == _ONE_IN - 1
            line = odd(random_) if spoilt else json.dumps(good(random_), ensure_ascii=False)
            file.write(f"{line}\n")
            size, rows = size + len(line.encode()) + 1, rows + 1
    return rows


def checked(path: Path, checkout: Path) -> Cost:
    """What one check took; it printed the ledger.

    Raises:
        RuntimeError: it did not refuse the bad rows.
    """
    cost = cost_of(["data", "check", str(path), "--rows-only", "--json"], checkout, path.parent)
    if cost.code != 3:
        raise RuntimeError(f"ftcli data check ended with {cost.code}: {cost.err}")
    return cost


def measure(shape: str, other: Path | None) -> dict[str, Any]:
    """Rows, findings and times of one file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        rows, costs = written(path, shape), []
        for number in range(RUNS + 1):
            theirs = checked(path, other) if other else None
            ours = checked(path, ROOT)
            if number:  # the first of each compiles
                costs.append((ours, theirs))
        times = [ours.seconds * BYTES / path.stat().st_size for ours, _ in costs]
    [ledger] = json.loads(costs[-1][0].out)["sets"]
    assert ledger["rows_read"] == rows
    median = statistics.median(times)
    pairs = [(ours, theirs) for ours, theirs in costs if theirs]
    ratios = {
        name: round(statistics.median(getattr(ours, name) / getattr(theirs, name) for ours, theirs in pairs), 2)
        for name in (("processor_seconds", "peak_gib") if pairs else ())
    }
    return {
        "shape": shape,
        "rows": rows,
        "unusable": ledger["dropped"]["unusable"],
        "findings": {kind: each["rows"] for kind, each in ledger["findings"].items()},
        "seconds_per_100_mb": round(median, 2),
        "limit_seconds": LIMIT_SECONDS,
        "within": median < LIMIT_SECONDS,
        "seconds": [round(value, 2) for value in times],
        **({"ratios": ratios} if ratios else {}),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/data_check.json")
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    options = parser.parse_args()
    other = options.against and options.against.resolve()
    load, found, results = os.getloadavg()[0], versions(), []
    for shape in SHAPES:
        results.append(result := measure(shape, other))
        told = ", ".join(f"{count} {kind}" for kind, count in result["findings"].items())
        mark = "" if result["within"] else "  over the limit"
        print(f"{result['seconds_per_100_mb']:.2f} s per 100 MB  (limit {LIMIT_SECONDS:.0f})  {shape}{mark}")
        for name, ratio in result.get("ratios", {}).items():
            print(f"  {name} × {ratio:.2f}")
        print(f"  {result['rows']} rows, {result['unusable']} unusable; findings: {told}")
    print(f"median of {RUNS}, load {load:.2f} at the start; " + ", ".join(map(" ".join, found.items())))
    if options.save:
        save("data_check", {"schema": 1, "runs": RUNS, "load": load, "versions": found, "files": results})
    return 0 if all(result["within"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
