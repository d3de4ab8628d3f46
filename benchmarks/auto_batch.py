"""The batch that `train.per_device_train_batch_size=auto` chooses, against a grid by hand, under a stated memory limit.

    python benchmarks/auto_batch.py [--limit GIB] [--repeats 3] [--steps 12] [--save]

A random Llama of 15M parameters is fully trained on rows of 40 to 400 words, 8 rows a step, on the CPU. Every way to
divide the 8 rows into passes, with and without gradient checkpointing, is run as often as `--repeats` says, in turn;
those whose planned memory is above the limit are left out, as `auto` would. Prints tokens a second, without the first
steps, in the median, the spread of a way's repeats (largest over smallest), and the time of the chosen way against the
best one's. It must be no slower than the largest spread explains.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from common import save, versions
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ftcli import tiny
from ftcli.build.auto_batch import Candidate, candidates
from ftcli.build.resolve import run_of
from ftcli.config.compose import Request

ROWS, WORDS = 400, (40, 400)
LIMIT_GIB = 0.5
SIZES = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6}
COMMON = (
    "hardware=cpu", "hardware.num_threads=2", "method.packing=false", "run.score_rows=0", "train.save_strategy=no",
    "train.logging_steps=1",
)  # fmt: skip

EIGHT_ROWS = ("train.per_device_train_batch_size=auto", "train.gradient_accumulation_steps=1")


def make_inputs(folder: Path) -> tuple[str, ...]:
    """A random model and rows of unequal length; the words that name them."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.MODEL_DIR)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **SIZES))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    chance = random.Random(1)
    words = ["sum", "of", "red", "blue", "name", "the", "a", "and", "what", "is"]
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for _ in range(ROWS):
            text = " ".join(chance.choices(words, k=chance.randint(*WORDS)))
            file.write(json.dumps({"prompt": "Say it.", "completion": text}) + "\n")
    return (f"model.name_or_path={folder / 'model'}", f"data.path={folder / 'rows.jsonl'}")


def tokens_per_second(words: tuple[str, ...], way: Candidate, run: Path) -> dict[str, Any]:
    """Train with one way to compute a step; what its run says of the machine.

    Raises:
        CalledProcessError: it failed.
    """
    settings = [f"train.{name}={str(value).lower()}" for name, value in way.settings.items()]
    command = [sys.executable, "-m", "ftcli", "train", *words, *settings, f"run.dir={run}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))["machine"]
    return found


def measure(limit: float, repeats: int, steps: int) -> dict[str, Any]:
    """Run the grid in turn, as often as asked."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = (*make_inputs(folder), *COMMON, f"train.max_steps={steps}")
        run = run_of(Request(overrides=(*words, *EIGHT_ROWS)))
        ways = [way for way in candidates(run, room_gib=limit) if way.fits]
        left_out = [way.words for way in candidates(run, room_gib=limit) if not way.fits]
        speeds: dict[str, list[float]] = {way.words: [] for way in ways}
        for turn in range(repeats):
            for number, way in enumerate(ways):
                machine = tokens_per_second(words, way, folder / f"run-{turn}-{number}")
                speeds[way.words].append(machine["tokens_per_second"])
                print(f"{way.words}: {machine['tokens_per_second']:.0f} tokens/s", file=sys.stderr, flush=True)
    rows = [
        {
            "way": way.words,
            "planned_gib": round(way.total_gib, 3),
            "tokens_per_second": speeds[way.words],
            "median": median(speeds[way.words]),
            "spread": round(max(speeds[way.words]) / min(speeds[way.words]), 3),
        }
        for way in ways
    ]
    best = max(rows, key=lambda row: float(str(row["median"])))
    return {
        "schema": 1,
        "limit_gib": limit,
        "steps": steps,
        "left_out": left_out,
        "ways": rows,
        "chosen": rows[0]["way"],
        "best": best["way"],
        "time_of_chosen": round(float(str(best["median"])) / float(str(rows[0]["median"])), 3),
        "spread": max(float(str(row["spread"])) for row in rows),
        "versions": versions(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=LIMIT_GIB, help="GiB that a process may take by its plan")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/auto_batch.json")
    options = parser.parse_args()
    found = measure(options.limit, options.repeats, options.steps)
    for row in found["ways"]:
        print(f"{row['median']:8.0f} tokens/s  spread {row['spread']:.2f}  {row['planned_gib']:.2f} GiB  {row['way']}")
    print(f"over {found['limit_gib']} GiB: {'; '.join(found['left_out']) or 'none'}")
    within = found["time_of_chosen"] <= found["spread"]
    verdict = "within" if within else "SLOWER than"
    print(f"chosen: {found['chosen']}, {found['time_of_chosen']:.2f} × the time of the best ({found['best']}),")
    print(f"{verdict} the spread of repeats ({found['spread']:.2f}); " + ", ".join(map(" ".join, versions().items())))
    if options.save:
        save("auto_batch", found)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
