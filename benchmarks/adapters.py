"""What each adapter learns on the built-in model, what it costs, and what instructions do for kinds never trained.

    python benchmarks/adapters.py [--only lora,ia3] [--save]

Each choice of `peft=` is trained once by `ftcli train method=instruct`, for the same two epochs of the built-in
instructions and with a learning rate of its own, which stands in the table: a model this small needs far higher ones
than ftcli sets for real ones. Score and loss are those of the run: exact answers to held-out instructions, whose
operands no training row has. Seconds are those of the steps with one thread; peak memory is the process's, most of
which is libraries. A choice that does not better the base by MARGIN ends the script with an error.

Then the kinds of instruction are dealt into folds. Each fold is left out of a run of its own (peft=lora) and asked
afterwards: what is gained there is following instructions, not knowing that kind of them.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from common import peak_gib, save, versions

from ftcli import tiny
from ftcli.tiny.world import INSTRUCTIONS

MARGIN = 0.05
"""What every adapter must gain in exact answers over the base, as a share of the questions; the base has none."""
FOLDS = 4
SETTINGS = (
    "method=instruct", "model=tiny", "train.num_train_epochs=2", "train.save_strategy=no", "train.eval_strategy=no",
    "hardware=cpu", "hardware.num_threads=1",
)  # fmt: skip
CHOICES = {
    "peft=none": 1e-3,
    "peft=freeze": 2e-3,
    "peft=lora": 3e-3,
    "peft=qlora": 3e-3,
    "peft=dora": 3e-3,
    "peft=rslora": 1e-3,
    "peft=pissa": 1e-3,
    "peft=loraplus": 5e-4,
    "peft=adalora": 3e-3,
    "peft=vera": 2e-2,
    "peft=oft": 3e-3,
    "peft=ia3": 3e-2,
    "peft=adapter": 5e-3,
    "peft=adapter peft.placement=pfeiffer": 5e-3,
    "peft=prefix": 3e-3,
    "peft=p_tuning": 5e-3,
    "peft=p_tuning peft.deep=true": 3e-2,
    "peft=prompt": 3e-1,
}
Row = dict[str, Any]


def train(words: list[str]) -> tuple[dict[str, Any], float]:
    """Train as a user would; its result.json and the peak of its resident memory in GiB."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        peak = peak_gib(["train", *SETTINGS, *words, f"run.dir={run_dir}"])
        return json.loads((run_dir / "result.json").read_text(encoding="utf-8")), peak


def learned(choice: str, rate: float) -> Row:
    """One line of the table."""
    result, peak = train([*choice.split(" "), f"train.learning_rate={rate}"])
    found = {
        "choice": choice,
        "learning_rate": rate,
        "trainable": result["parameters"]["trainable"],
        "exact_match": {key: result["score"][key] for key in ("before", "after", "rows")},
        "eval_loss": result["eval_loss"],
        "seconds": round(result["seconds"], 1),
        "peak_gib": round(peak, 2),
    }
    print(json.dumps(found), flush=True)
    return found


def kind_of(row: Row) -> str:
    """The kind of instruction that a row of the built-in set is."""
    asked = row["messages"][0]["content"]
    for kind, forms in INSTRUCTIONS.items():
        for form in forms:
            if re.fullmatch(re.sub(r"\\{\w\\}", ".+", re.escape(form)), asked):
                return kind
    raise ValueError(f"of no known kind: {asked}")


def _rows(split: str) -> list[Row]:
    lines = tiny.set_path("instruct", split).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def unseen(fold: int) -> Row:
    """Train on the kinds outside the fold, and ask those within."""
    kinds = list(INSTRUCTIONS)[fold::FOLDS]
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for split, within in (("train", False), ("eval", True)):
            paths[split] = Path(folder) / f"{split}.jsonl"
            kept = [json.dumps(row) for row in _rows(split) if (kind_of(row) in kinds) == within]
            paths[split].write_text("\n".join(kept) + "\n", encoding="utf-8")
        data = [f"data.path={paths['train']}", f"data.eval_path={paths['eval']}", "run.score_rows=400"]
        result, _ = train([*data, "peft=lora", f"train.learning_rate={CHOICES['peft=lora']}"])
    found = {
        "kinds": kinds,
        "exact_match": {key: result["score"][key] for key in ("before", "after", "rows")},
        "eval_loss": result["eval_loss"],
    }
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of choices, with commas between them; nothing is saved")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else None
    table = [learned(choice, rate) for choice, rate in CHOICES.items() if names is None or choice[5:] in names]
    folds = [unseen(fold) for fold in range(FOLDS)] if names is None else []
    short = [row["choice"] for row in table if row["exact_match"]["after"] < row["exact_match"]["before"] + MARGIN]
    if short:
        raise SystemExit(f"less than {MARGIN:.0%} better than the base: {', '.join(short)}")
    if options.save and names is None:
        about = {"schema": 1, "margin": MARGIN, "versions": versions()}
        save("adapters", {**about, "settings": " ".join(SETTINGS), "adapters": table, "unseen": folds})


if __name__ == "__main__":
    main()
