"""From the start of a command to the end of its first step: this checkout against another one; pairs run alternately.

    python benchmarks/start_up.py --against CHECKOUT [--pairs 5] [--save]

Trains the built-in model with an adapter on a few rows, for SFT and for DPO, one thread. Told are, for each, the wall
time until the first step stands in metrics.jsonl and the processor's time of the whole command, which a busy machine
disturbs less, with their median ratios (aim 0.65); `--save` also writes benchmarks/results/start_up.json. The command's
own end, which saves the model, is in the processor's time but not in the wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from common import save, versions

ROOT = Path(__file__).resolve().parent.parent
AIM = 0.65
METHODS = ("sft", "dpo")
WORDS = (
    "peft=lora", "hardware=cpu", "hardware.num_threads=1", "train.max_steps=1", "train.logging_steps=1",
    "train.save_strategy=no", "train.eval_strategy=no", "data.max_rows=32", "data.max_eval_rows=8", "run.score_rows=0",
    "run.dir=run",
)  # fmt: skip
_LOOK_EVERY_SECONDS = 0.01


def first_step(checkout: Path, method: str) -> dict[str, float]:
    """Wall seconds until a checkout's first step, and the user and system seconds of the whole command.

    Raises:
        RuntimeError: the command failed, or ran another checkout's code.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "ftcli", "train", f"method={method}", *WORDS]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        began, reached = time.perf_counter(), None
        with open(folder / "output", "wb") as output:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        metrics = folder / "run" / "metrics.jsonl"
        while reached is None and process.poll() is None:
            if metrics.is_file() and '"loss"' in metrics.read_text(encoding="utf-8"):
                reached = time.perf_counter() - began
            time.sleep(_LOOK_EVERY_SECONDS)
        if process.wait() or reached is None:
            raise RuntimeError(f"{checkout}: {(folder / 'output').read_text(encoding='utf-8')}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return {"wall_seconds": round(reached, 3), "processor_seconds": round(processor, 3)}


def measure(other: Path, pairs: int) -> dict[str, dict[str, object]]:
    """All pairs of each method, and their median ratios; the first of each checkout, which compiles, is not counted."""
    found = {}
    for method in METHODS:
        for checkout in (other, ROOT):
            first_step(checkout, method)
        measured = []
        for number in range(pairs):
            order = ("before", "now") if number % 2 == 0 else ("now", "before")
            pair = {name: first_step(other if name == "before" else ROOT, method) for name in order}
            measured.append(pair)
            print(f"{method}  " + "  ".join(f"{name} {pair[name]}" for name in ("before", "now")), flush=True)
        ratios = {
            kind: round(median(pair["now"][kind] / pair["before"][kind] for pair in measured), 3)
            for kind in ("wall_seconds", "processor_seconds")
        }
        medians = {
            name: {kind: median(pair[name][kind] for pair in measured) for kind in ratios} for name in ("before", "now")
        }
        found[method] = {"median_ratio": ratios, "medians": medians, "pairs": measured}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="another checkout of this repository")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/start_up.json")
    options = parser.parse_args()
    other = options.against.resolve()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=other, capture_output=True, text=True, check=True)
    load = os.getloadavg()[0]
    found = measure(other, options.pairs)
    for method, result in found.items():
        print(f"{method}: median ratio {json.dumps(result['median_ratio'])} (aim {AIM})")
    if options.save:
        told = {"schema": 1, "against": commit.stdout.strip(), "load": load, "versions": versions(), "methods": found}
        save("start_up", told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
