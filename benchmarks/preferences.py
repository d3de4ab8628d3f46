"""What each preference method does to the built-in model, and what many passes over few pairs do to DPO and to IPO.

    python benchmarks/preferences.py [--only orpo,kto] [--seeds 2] [--save]

A model that answers in mixed manners is trained first (instructions, then the set `manners`). From it each method
trains once for each seed on the built-in preferences, polite over rude, with an adapter; KTO also on the set
`feedback`, whose answers are labelled one by one. Told are the held-out preference accuracy before and after (by the
policy's mean log-probability a token; of the reward model by its score), the implicit reward's accuracy where there is
a reference, and of answers sampled at temperature 1 to held-out prompts how many are polite, and how many give the
right answer, before and after. A method that ends below ACCURACY, or makes no more answers polite, ends the script
with an error.

Then DPO and IPO train on the same FEW pairs for MANY passes. Overfitting shows as a margin of the trained pairs that
grows on, answers that are no longer right, and a held-out accuracy that falls.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from common import save, versions

from ftcli import tiny
from ftcli.tiny.facts import POLITE, RUDE

ACCURACY = 0.9
FEW, MANY = 64, 40
BASE = ("model=tiny", "hardware=cpu", "hardware.num_threads=1", "train.save_strategy=no", "train.eval_strategy=no")
# Method, further words and its learning rate: a model this small takes far higher ones than a large one.
CASES = {
    "dpo": (("method=dpo",), 3e-4),
    "ipo": (("method=ipo",), 3e-4),
    "kto": (("method=kto",), 3e-4),
    "kto on labels": (("method=kto", f"data.path={tiny.set_path('feedback', 'train')}"), 4e-4),
    "orpo": (("method=orpo",), 1e-3),
    "cpo": (("method=cpo",), 3e-4),
    "simpo": (("method=simpo",), 3e-4),
    "reward": (("method=reward",), 1e-3),
}
Row = dict[str, Any]


def ftcli(*words: str) -> None:
    """Run a command.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run([sys.executable, "-m", "ftcli", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ftcli {' '.join(words)}: exit {done.returncode}\n{done.stderr}")


def train(folder: Path, *words: str) -> Row:
    """Train into that folder; its result.json."""
    ftcli("train", *BASE, *words, f"run.dir={folder}")
    found: Row = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def mixed_manners(folder: Path) -> Path:
    """A model that knows answers and gives them politely or rudely, as it comes."""
    train(folder / "knows", "method=sft", "peft=lora", "train.learning_rate=3e-3", "train.num_train_epochs=2", "seed=1")
    manners = f"data.path={tiny.set_path('manners', 'train')}"
    words = ("method=sft", f"model.name_or_path={folder / 'knows'}", manners, "peft=lora", "train.learning_rate=1e-3")
    train(folder / "mixed", *words, "train.num_train_epochs=1", "seed=1")
    return folder / "mixed"


def sampled(model: Path | str, folder: Path) -> Row:
    """Shares of sampled answers to held-out prompts that are polite, and that hold the right answer."""
    rows = folder / "sampled.jsonl"
    prompts = tiny.set_path("prompts", "eval")
    ftcli("sample", str(model), str(prompts), "--n", "1", "--seed", "1", "--max-new-tokens", "32", "--to", str(rows))
    said = [json.loads(line)["completion"][-1]["content"] for line in rows.read_text(encoding="utf-8").splitlines()]
    right = [json.loads(line)["answer"] for line in prompts.read_text(encoding="utf-8").splitlines()]
    rows.unlink()
    polite = [_form(text, POLITE) for text in said]
    rude = [_form(text, RUDE) for text in said]
    answered = [answer in (good, bad) for answer, good, bad in zip(right, polite, rude, strict=True)]
    return {
        "polite": sum(core is not None for core in polite) / len(said),
        "right": sum(answered) / len(said),
        "answers": len(said),
    }


def _form(text: str, forms: tuple[str, ...]) -> str | None:
    """The answer inside one of the ways to give it; None if it is given in none of them."""
    for form in forms:
        before, after = form.split("{core}")
        if text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after):
            return text[len(before) : len(text) - len(after)]
    return None


def measured(name: str, base: Path, before: Row, seed: int) -> Row:
    """One method from one seed."""
    words, rate = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        more = (f"model.name_or_path={base}", "peft=lora", f"train.learning_rate={rate}", f"seed={seed}")
        held_out = (f"data.eval_path={tiny.set_path('preferences', 'eval')}",)
        passes = ("train.num_train_epochs=1", "train.per_device_train_batch_size=16", "run.score_rows=240")
        result = train(run, *words, *more, *held_out, *passes)
        found: Row = {"name": name, "seed": seed, "learning_rate": rate, "score": result["score"]}
        found["seconds"] = round(result["seconds"], 1)
        if name != "reward":
            found["before"], found["after"] = before, sampled(run, Path(folder))
    print(json.dumps(found), flush=True)
    return found


def repeated(name: str, base: Path) -> Row:
    """The same few pairs over and over: held-out accuracy, sampled answers, and the margin of the trained pairs."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = (f"method={name}", f"model.name_or_path={base}", "peft=lora", "train.learning_rate=3e-4", "seed=1")
        passes = (f"train.num_train_epochs={MANY}", "train.per_device_train_batch_size=16", "run.score_rows=240")
        result = train(run, *words, f"data.max_rows={FEW}", *passes, "train.logging_steps=1")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        margins = [line["rewards/margins"] for line in lines if "rewards/margins" in line]
        found = {
            "name": name,
            "score": result["score"],
            "eval_loss": result["eval_loss"],
            "margin_of_trained": {"middle": margins[len(margins) // 2], "last": mean(margins[-4:])},
            "after": sampled(run, Path(folder)),
        }
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of methods, with commas between them; nothing is saved")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(CASES)
    with tempfile.TemporaryDirectory() as folder:
        base = mixed_manners(Path(folder))
        before = sampled(base, Path(folder))
        print(json.dumps(before), flush=True)
        table = [measured(name, base, before, seed) for name in names for seed in range(1, options.seeds + 1)]
        again = [repeated(name, base) for name in ("dpo", "ipo")] if not options.only else []
    short = [row["name"] for row in table if row["score"]["after"] < ACCURACY]
    short += [row["name"] for row in table if "after" in row and row["after"]["polite"] <= before["polite"]]
    if short:
        raise SystemExit(f"below {ACCURACY:.0%} of held-out pairs, or no politer: {', '.join(short)}")
    if options.save and not options.only:
        about = {"schema": 1, "accuracy": ACCURACY, "few": FEW, "many": MANY, "versions": versions()}
        save("preferences", {**about, "before": before, "methods": table, "repeated": again})


if __name__ == "__main__":
    main()
