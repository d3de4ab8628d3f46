"""How fast the front half answers: the median wall time of five runs of each command, each in a fresh process.

    python benchmarks/front_half.py [--against CHECKOUT] [--save]

Prints a table against the limits, 0.15 s for `--help` and `list` and 0.5 s for the rest, on two idle cores; `--save`
also writes benchmarks/results/front_half.json. A measurement, not a test: a busy machine fails it. With another
checkout of this repository both run alternately, and the median ratio of their processor times is told too, which a
busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from common import cost_of, save, versions

ROOT = Path(__file__).resolve().parent.parent
RUNS = 5

# Command: (limit in seconds, exit code).
COMMANDS: dict[str, tuple[float, int]] = {
    "--help": (0.15, 0),
    "list": (0.15, 0),
    "list model": (0.15, 0),
    "show": (0.5, 0),
    "show peft peft=lora": (0.5, 0),
    "check recipe=demo": (0.5, 0),
    "check method=dpo model=llama peft=lora": (0.5, 0),
    "plan recipe=demo": (0.5, 0),
    "plan method=dpo model=llama peft=lora": (0.5, 0),
    "train method=dppo": (0.5, 2),
    "train peft=lora peft.r=sixteen seed=abc train.optim=adamw_torhc": (0.5, 2),
    "train data.path=gone.jsonl": (0.5, 2),
}


def seconds(words: list[str], code: int, folder: Path, checkout: Path = ROOT) -> tuple[float, float]:
    """Wall and processor time of one process, in an empty working directory.

    Raises:
        RuntimeError: it ended with another exit code.
    """
    cost = cost_of(words, checkout, folder)
    if cost.code != code:
        raise RuntimeError(f"ftcli {' '.join(words)} ended with {cost.code}: {cost.err}")
    return cost.seconds, cost.processor_seconds


def measure(other: Path | None) -> list[dict[str, object]]:
    """The times of every command; the first run of each, which compiles, is not counted."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command, (limit, code) in COMMANDS.items():
            words = command.split()
            pairs = []
            for number in range(RUNS + 1):
                theirs = seconds(words, code, folder, other) if other else (0.0, 0.0)
                ours = seconds(words, code, folder)
                if number:
                    pairs.append((ours, theirs))
            times = [ours[0] for ours, _ in pairs]
            median = statistics.median(times)
            found.append(
                {
                    "command": f"ftcli {command}",
                    "median_seconds": round(median, 3),
                    "limit_seconds": limit,
                    "within": median < limit,
                    "seconds": [round(value, 3) for value in times],
                }
            )
            if other:
                ratio = statistics.median(ours[1] / theirs[1] for ours, theirs in pairs)
                found[-1]["processor_ratio"] = round(ratio, 2)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/front_half.json")
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows = measure(options.against and options.against.resolve())
    for row in rows:
        mark = "" if row["within"] else "  over the limit"
        ratio = f"processor × {row['processor_ratio']:.2f}  " if options.against else ""
        print(f"{row['median_seconds']:.3f} s  (limit {row['limit_seconds']:.2f})  {ratio}{row['command']}{mark}")
    found = versions()
    print(f"median of {RUNS}, load {load:.2f} at the start; " + ", ".join(map(" ".join, found.items())))
    if options.save:
        save("front_half", {"schema": 1, "runs": RUNS, "load": load, "versions": found, "commands": rows})
    return 0 if all(row["within"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
