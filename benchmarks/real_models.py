"""What training does to real small models, on a CPU: SmolLM2 135M Instruct, and the Gemma 3 270M base with new tokens.

    python benchmarks/real_models.py MODELS DATA [--only sft,grpo] [--runs FOLDER] [--save]

MODELS is a folder with the models as `smollm2` and `gemma3`, DATA one with the demo sets of LLaMA-Factory, of which the
first rows are used that are short enough; the questions of GRPO are sums that are written here. Every run is typed as
it stands in `CASES`, with LoRA in float32, and keeps some rows from training: told are the held-out loss before and
after, and the metric of the method. The SFT run is then merged, the merged model evaluated on the same held-out rows,
and both answer the same prompts. A run that ends no better than it began, by what `CASES` says, ends the script with an
error.

With --runs a script that was stopped goes on where it was; --save keeps the results of other runs that are there.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import keep

Row = dict[str, Any]
COMMON = ("peft=lora", "hardware=cpu", "seed=1", "train.save_steps=10", "train.logging_steps=5")
NEW_TOKENS = "model.new_tokens=['<|im_start|>','<|im_end|>']"
PROMPTS = ("Name three colours.", "What is the capital of France?", "Write one sentence about rain.", "Say hello.")
SUMS, HELD_OUT_SUMS = 96, 32


@dataclass(frozen=True)
class Case:
    """A run: what is typed besides `COMMON`, and by what it must be better at its end."""

    model: str
    data: str
    words: tuple[str, ...]
    better: str
    """`loss`: a lower held-out loss; `score`: a higher value of the method's metric."""


CASES = {
    "sft": Case(
        "smollm2",
        "alpaca_en_demo.json",
        (
            "method=sft",
            "data.max_length_tokens=80",
            "data.eval_share=0.15",
            "train.learning_rate=5e-4",
            "train.num_train_epochs=1",
            "train.per_device_train_batch_size=8",
            "train.gradient_accumulation_steps=1",
        ),
        "loss",
    ),
    "dpo": Case(
        "smollm2",
        "dpo_en_demo.json",
        (
            "method=dpo",
            "data.max_length_tokens=128",
            "data.overflow=truncate_right",
            "data.eval_share=0.25",
            "train.learning_rate=2e-4",
            "train.num_train_epochs=1",
            "train.per_device_train_batch_size=8",
            "train.gradient_accumulation_steps=1",
        ),
        "loss",
    ),
    "reward": Case(
        "smollm2",
        "dpo_en_demo.json",
        (
            "method=reward",
            "data.max_length_tokens=512",
            "data.overflow=drop",
            "data.eval_share=0.25",
            "train.learning_rate=5e-4",
            "train.num_train_epochs=1",
            "train.per_device_train_batch_size=2",
            "train.gradient_accumulation_steps=1",
        ),
        "loss",
    ),
    "grpo": Case(
        "smollm2",
        "sums.jsonl",
        (
            "method=grpo",
            "method.rewards.number=1",
            "method.num_generations=8",
            "method.max_completion_length=12",
            "train.learning_rate=3e-4",
            "train.max_steps=8",
            "train.per_device_train_batch_size=16",
            "train.gradient_accumulation_steps=1",
        ),
        "score",
    ),
    "gemma": Case(
        "gemma3",
        "alpaca_en_demo.json",
        (
            "method=sft",
            "model.chat_template=chatml",
            NEW_TOKENS,
            "data.max_length_tokens=64",
            "data.eval_share=0.15",
            "train.learning_rate=5e-4",
            "train.max_steps=8",
            "train.per_device_train_batch_size=4",
            "train.gradient_accumulation_steps=1",
        ),
        "loss",
    ),
}


def ftcli(*words: str) -> str:
    """What a command prints.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run([sys.executable, "-m", "ftcli", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ftcli {' '.join(words)}: exit {done.returncode}")
    return done.stdout


def write_sums(folder: Path) -> None:
    """Sums of two numbers below 50 with their answers, none twice, as training and held-out rows."""
    pairs = [(a, b) for a in range(50) for b in range(50)]
    rows = [
        {"prompt": f"What is {a} + {b}? Answer with the number only.", "answer": str(a + b)}
        for a, b in random.Random(1).sample(pairs, SUMS + HELD_OUT_SUMS)
    ]
    for name, part in (("sums.jsonl", rows[:SUMS]), ("sums.eval.jsonl", rows[SUMS:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")


def measured(name: str, models: Path, data: Path, runs: Path) -> Row:
    """Train one case, or finish it; what its run says of itself."""
    case, run = CASES[name], runs / name
    if not (run / "result.json").is_file():
        if (run / "spec.json").is_file():
            ftcli("train", "--resume", str(run))
        else:
            own = (runs if case.data == "sums.jsonl" else data) / case.data
            held_out = (f"data.eval_path={runs / 'sums.eval.jsonl'}",) if case.data == "sums.jsonl" else ()
            measure = "train.eval_on_start=true" if case.better == "loss" else "run.score_rows=32"
            place = (f"model.name_or_path={models / case.model}", f"data.path={own}", f"run.dir={run}")
            ftcli("train", *COMMON, *case.words, *place, *held_out, measure)
    found = json.loads((run / "result.json").read_text(encoding="utf-8"))
    ledger, held_out_ledger = found["ledger"]["train"], found["ledger"].get("eval") or {}
    row = {
        "name": name,
        "model": case.model,
        "command": " ".join(("train", *COMMON, *case.words)),
        "rows": ledger["rows_kept"],
        "eval_rows": held_out_ledger.get("rows_kept"),
        "steps": found["steps"],
        "seconds": round(found["seconds"], 1),
        "eval_loss": found["eval_loss"],
        "score": found["score"],
    }
    _require_better(case, row)
    return row


def _require_better(case: Case, row: Row) -> None:
    pair = row["eval_loss"] if case.better == "loss" else row["score"]
    risen = pair["after"] - pair["before"]
    if (risen >= 0) if case.better == "loss" else (risen <= 0):
        raise SystemExit(f"{row['name']}: the held-out {case.better} went from {pair['before']} to {pair['after']}")


def merged(run: Path) -> Row:
    """The merged model of a run beside its adapter: the held-out loss of both, and greedy answers."""
    folder = run / "merged"
    if not folder.is_dir():
        ftcli("merge", str(run))
    found = json.loads(ftcli("eval", str(run), "--model", str(folder), "--score-rows", "0", "--json"))
    answers = [_answers(str(model)) for model in (run, folder)]
    same = sum(ours == theirs for ours, theirs in zip(*answers, strict=True))
    return {"eval_loss": found["measured"]["eval_loss"], "prompts": len(PROMPTS), "same_answers": same}


def _answers(model: str) -> Sequence[str]:
    lines = ftcli("generate", model, *PROMPTS, "--max-new-tokens", "32", "--json").splitlines()
    return [json.loads(line)["answer"] for line in lines]


def options_of(about: str | None, cases: Iterable[str]) -> argparse.Namespace:
    """The command line of a script that trains real models."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default=",".join(cases))
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--save", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = options_of(__doc__, CASES)
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or Path(temporary)
        runs.mkdir(parents=True, exist_ok=True)
        write_sums(runs)
        for name in options.only.split(","):
            row = measured(name, options.models.resolve(), options.data.resolve(), runs)
            if name == "sft":
                row["merged"] = merged(runs / name)
            print(json.dumps(row), flush=True)
            if options.save:
                keep("real_models", "runs", [row], CASES)


if __name__ == "__main__":
    main()
