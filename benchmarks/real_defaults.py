"""What the defaults alone do to SmolLM2 135M Instruct on a CPU.

    python benchmarks/real_defaults.py MODELS DATA [--only sft,dpo,grpo] [--runs FOLDER] [--save]

MODELS is a folder with the model as `smollm2`, DATA one with the demo sets of LLaMA-Factory, of which the shortest rows
are used, since a processor is slow. Nothing is set but the model, the rows, the number of steps where `STEPS` names
one, how often the run writes down its measures, and one thread; DPO takes one pair a pass, which leaves those of a
step as they are. SFT and DPO are measured by their held-out loss on rows that are the same for every seed; GRPO, with
LoRA on the names of capitals, of which it answers about half by itself, and one seed, by the reward of its training
answers and by held-out prompts.

Told is the mean over the seeds with its 95% interval (Student's t), for GRPO over its steps. SFT or DPO whose interval
of the improvement holds 0 ends the script with an error; what GRPO reaches is told whatever it is. With --runs a script
that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import T_95, interval, keep
from real_models import ftcli, options_of

Row = dict[str, Any]
SEEDS = (1, 2, 3)
ROWS = {"alpaca_en_demo.json": (192, 48), "dpo_en_demo.json": (64, 20)}
"""Rows of each set that are trained and held out."""
CASES = {
    "sft": ("alpaca_en_demo.json", ("method=sft", "train.eval_on_start=true")),
    "dpo": ("dpo_en_demo.json", ("method=dpo", "train.eval_on_start=true", "train.per_device_train_batch_size=1")),
    "grpo": ("capitals.jsonl", ("method=grpo", "peft=lora", "method.rewards.holds_answer=1", "run.score_rows=16")),
}
CAPITALS = (
    "France Paris Germany Berlin Italy Rome Spain Madrid Japan Tokyo China Beijing Russia Moscow Egypt Cairo "
    "Greece Athens Portugal Lisbon Canada Ottawa Peru Lima Cuba Havana Kenya Nairobi Norway Oslo Sweden Stockholm "
    "Poland Warsaw Austria Vienna Ireland Dublin Hungary Budapest Denmark Copenhagen Finland Helsinki "
    "Iceland Reykjavik "
    "Belgium Brussels Netherlands Amsterdam Switzerland Bern Turkey Ankara Ukraine Kyiv Romania Bucharest "
    "Bulgaria Sofia Serbia Belgrade Croatia Zagreb Czechia Prague Argentina Buenos Chile Santiago Colombia Bogotá "
    "Ecuador Quito Bolivia Sucre Uruguay Montevideo Jamaica Kingston Australia Canberra India Delhi Nepal Kathmandu "
    "Pakistan Islamabad Bangladesh Dhaka Thailand Bangkok Vietnam Hanoi Cambodia Phnom Indonesia Jakarta Iran Tehran "
    "Iraq Baghdad Syria Damascus Lebanon Beirut Jordan Amman Israel Jerusalem Ethiopia Addis Nigeria Abuja Ghana Accra "
    "Senegal Dakar Morocco Rabat Algeria Algiers Tunisia Tunis Libya Tripoli Sudan Khartoum Uganda Kampala"
)
"""Countries, each before the first word of its capital."""
ONE_THREAD = ("hardware=cpu", "hardware.num_threads=1")
"""Two threads wait for each other at every layer where the machine has other work, and take far longer than one."""
STEPS = {"dpo": 4, "grpo": 10}
ONE_SEED = ("grpo",)
"""Cases whose steps are compared with each other, each with new prompts and answers, and not its seeds."""


def write_rows(data: Path, folder: Path) -> None:
    """The shortest rows of each set: every fourth or fifth is held out."""
    for name, (trained, measured) in ROWS.items():
        rows = sorted(json.loads((data / name).read_text(encoding="utf-8")), key=lambda row: len(json.dumps(row)))
        rows = rows[: trained + measured]
        every = len(rows) // measured
        held_out = rows[::every][:measured]
        kept = [row for row in rows if row not in held_out]
        (folder / name).write_text(json.dumps(kept), encoding="utf-8")
        (folder / _held_out(name)).write_text(json.dumps(held_out), encoding="utf-8")
    words = CAPITALS.split()
    asked = [
        {"prompt": f"What is the capital of {country}?", "answer": capital}
        for country, capital in zip(words[::2], words[1::2], strict=True)
    ]
    for name, part in (("capitals.jsonl", asked[:48]), (_held_out("capitals.jsonl"), asked[48:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")


def _held_out(name: str) -> str:
    stem, _, suffix = name.partition(".")
    return f"{stem}.eval.{suffix}"


def measured(name: str, seed: int, models: Path, runs: Path) -> Row:
    """Train one case with one seed, or finish it; what its run says of itself."""
    data, words = CASES[name]
    run = runs / f"{name}-{seed}"
    command = (*words, f"seed={seed}", *((f"train.max_steps={STEPS[name]}",) if name in STEPS else ()))
    if not (run / "result.json").is_file():
        if (run / "spec.json").is_file():
            ftcli("train", "--resume", str(run))
        else:
            place = (f"model.name_or_path={models / 'smollm2'}", f"data.path={runs / data}", f"run.dir={run}")
            often = ("train.logging_steps=1", "train.save_strategy=steps", "train.save_steps=2", *ONE_THREAD)
            ftcli("train", *command, *place, f"data.eval_path={runs / _held_out(data)}", *often)
    found = json.loads((run / "result.json").read_text(encoding="utf-8"))
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "name": name,
        "seed": seed,
        "command": "train " + " ".join(command),
        "rows": found["ledger"]["train"]["rows_kept"],
        "steps": found["steps"],
        "seconds": round(found["seconds"]),
        "eval_loss": found["eval_loss"],
        "score": found["score"],
        "rewards": [each["reward"] for each in logged if "reward" in each],
    }


def summed_up(name: str, rows: Sequence[Row]) -> Row:
    """What a case improved by: lower held-out loss, or for GRPO more reward in the second half of its steps."""
    both = {"name": name, "seeds": len(rows), "rows": rows[0]["rows"], "steps": rows[0]["steps"]}
    both |= {"command": rows[0]["command"].rpartition(" seed=")[0], "seconds": sum(row["seconds"] for row in rows)}
    if name in ONE_SEED:
        return both | {"improved": of_halves(rows[0]["rewards"])}
    losses = [row["eval_loss"] for row in rows]
    middle, _, high = interval([loss["before"] - loss["after"] for loss in losses])
    return both | {"improved": {"mean": middle, "half_width": high - middle}}


def of_halves(rewards: Sequence[float]) -> Row:
    """How much higher the mean reward of the second half of up to ten steps is, and half of its 95% interval."""
    halves = rewards[: len(rewards) // 2], rewards[len(rewards) // 2 :]
    first, second = (statistics.fmean(half) for half in halves)
    variance = sum(statistics.variance(half) / len(half) for half in halves)
    return {
        "first_half": first,
        "second_half": second,
        "mean": second - first,
        "half_width": T_95[len(rewards) - 1] * variance**0.5,
    }


def main() -> None:
    options = options_of(__doc__, CASES)
    with tempfile.TemporaryDirectory() as temporary:
        runs = (options.runs or Path(temporary)).resolve()
        runs.mkdir(parents=True, exist_ok=True)
        write_rows(options.data, runs)
        failed = []
        for name in options.only.split(","):
            rows = [
                measured(name, seed, options.models.resolve(), runs)
                for seed in (SEEDS[:1] if name in ONE_SEED else SEEDS)
            ]
            found = {**summed_up(name, rows), "runs": rows}
            print(json.dumps(found), flush=True)
            if name not in ONE_SEED and found["improved"]["mean"] <= found["improved"]["half_width"]:
                failed.append(name)
            if options.save:
                keep("real_defaults", "cases", [found], CASES)
    if failed:
        raise SystemExit(f"not better beyond the interval of the seeds: {', '.join(failed)}")


if __name__ == "__main__":
    main()
