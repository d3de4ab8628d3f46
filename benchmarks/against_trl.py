"""End-to-end wall time of `ftcli train` against a plain TRL script doing the same steps; pairs run alternately.

    python benchmarks/against_trl.py [--pairs 3] [--steps 350] [--save]

Prints each pair, the median ratio (limit 1.05) and the difference of the final losses, which rounding alone parts: rows
are computed without padding here. TRL imports the trackers that are installed, ftcli those that a run names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from common import save, versions

from ftcli import tiny

HERE = Path(__file__).parent


def timed(command: list[str], folder: Path) -> float:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(folder / "hf")}
    began = time.perf_counter()
    subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - began


def plain(folder: Path, rows: Path, steps: int) -> tuple[float, float]:
    command = [sys.executable, str(HERE / "plain_trl.py"), str(tiny.MODEL_DIR), str(rows), "plain", str(steps)]
    # A warm-up of transformers begins at rate 0, and a logged loss is a mean of means: neither is so here.
    command += ["--schedule", "constant", "--every", "1"]
    seconds = timed(command, folder)
    return seconds, json.loads((folder / "plain" / "last.json").read_text())["loss"]


def ours(folder: Path, rows: Path, steps: int) -> tuple[float, float]:
    command = [
        sys.executable, "-m", "ftcli", "train", "method=sft", "model=tiny", "peft=none", "method.packing=false",
        "run.dir=ours", f"data.path={rows}", f"train.max_steps={steps}", "train.lr_scheduler_type=constant",
        "train.warmup_steps=0", "train.logging_steps=1",
        "train.learning_rate=7e-4", "train.per_device_train_batch_size=16", "run.score_rows=0",
        "train.gradient_accumulation_steps=1",
    ]  # fmt: skip
    seconds = timed(command, folder)
    return seconds, json.loads((folder / "ours" / "result.json").read_text())["loss_last"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    rows, pairs = tiny.set_path("sft", "train"), []
    for number in range(options.pairs):
        measured = {}
        for name, run in (("plain", plain), ("ours", ours)) if number % 2 == 0 else (("ours", ours), ("plain", plain)):
            with tempfile.TemporaryDirectory() as folder:
                measured[name] = run(Path(folder), rows, options.steps)
        ratio = measured["ours"][0] / measured["plain"][0]
        difference = abs(measured["ours"][1] - measured["plain"][1])
        pairs.append(
            {
                "plain_seconds": measured["plain"][0],
                "ours_seconds": measured["ours"][0],
                "ratio": ratio,
                "loss_difference": difference,
            }
        )
        print(
            f"plain {measured['plain'][0]:6.1f} s  ours {measured['ours'][0]:6.1f} s  "
            f"ratio {ratio:.3f}  loss difference {difference:.1e}"
        )
    result = {
        "steps": options.steps,
        "pairs": pairs,
        "median_ratio": median(pair["ratio"] for pair in pairs),
        "versions": versions(),
    }
    print(f"median ratio {result['median_ratio']:.3f} (limit 1.05)")
    if options.save:
        save("against_trl", result)


if __name__ == "__main__":
    main()
