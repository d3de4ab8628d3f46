"""The structure of every method's training, old against new, on the built-in model: passes, rows of a step, critic.

    OMP_NUM_THREADS=1 python benchmarks/defaults.py FOLDER [--only ppo,grpo] [--seeds 5] [--part critic] [--save]

New is what the methods declare for a real model: passes over the rows, rows or answers of a step, warm-up, schedule,
the critic's rate over the policy's, and fields such as IPO's beta. Old is what every method had before (`OLD`). Both
train on the same number of rows, such as a third of them in three passes against all of them in one, or sample the same
number of answers. Rows are drawn from the same files, the first ones; trained tokens are in the result.

Rates are no part of it: a model this small takes its own, and another one with another batch. So each structure trains
at that of FACTORS times the built-in world's rate with which it does best from TUNING_SEED. With it, it is trained from
each of the other seeds. Told is the difference of the held-out measures, new less old, paired by seed, with its 95%
interval. A method whose new structure is worse beyond it keeps the default of its source, and the table says so.

With --part the old structure is the new one but for that part. A cell is one training; FOLDER keeps them
(benchmarks/cells.py), so a script that was stopped goes on where it was. PPO and GRPO have to be better: if they are
not, the script ends with an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from cells import Cells
from common import interval, keep
from transformers import set_seed

from ftcli import tiny
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.text import table
from ftcli.methods import get_method
from ftcli.runs import rundir
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis.synthesis_spec import FILE, SynthesisSpec
from ftcli.tiny import defaults
from ftcli.tiny.facts import POLITE_PATTERN, RUDE_WORDS
from ftcli.worker.commands.synthesise import make
from ftcli.worker.inference.sampling import sample
from ftcli.worker.training.load import Loaded, load
from ftcli.worker.training.measure import measure
from ftcli.worker.training.run import build_trainer, train

FACTORS = (0.5, 1.0, 2.0, 4.0)
TUNING_SEED = 100
HELD_OUT_ANSWERS = 4
"""Answers that are sampled to a held-out prompt, where rewards measure a method."""
COMMON = (
    "model=tiny", "peft=none", "hardware=cpu", "hardware.num_threads=1", "train.save_strategy=no",
    "train.eval_strategy=no", "train.gradient_accumulation_steps=1", "train.logging_steps=1", "run.score_rows=240",
)  # fmt: skip
HIGHER = ("ppo", "grpo")
"""Methods whose new structure has to be better, and not only no worse."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Structure:
    """What is compared."""

    epochs: int
    rows: int
    """Rows of a step; of a method that samples answers, answers."""
    warmup: float
    schedule: str
    group: int = 1
    """Answers to a prompt."""
    critic: float | None = None
    """The critic's rate over the policy's."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of the method that are not as it ships."""


PARTS = ("epochs", "rows", "warmup", "schedule", "critic")
OLD = Structure(epochs=3, rows=8, warmup=0.03, schedule="cosine")
OLD_GROUPS = {"grpo": 8, "rloo": 2}
OLD_FIELDS = {"ipo": {"beta": 0.1}, "ppo": {"num_ppo_epochs": 4, "num_mini_batches": 1}}


@dataclass(frozen=True)
class Case:
    """What a method trains on in the built-in world, and by what it is measured."""

    base: str
    """The model that it starts from: `found`, `knows` or `mixed`."""
    rows: int
    """Rows times passes, or answers that are sampled."""
    data: str
    """The built-in set, or `prose`."""
    words: tuple[str, ...] = ()
    by_loss: bool = False
    """Measured by the held-out loss, with its sign turned; else by the method's own metric, or the mean reward of
    sampled answers."""
    trains: str = ""
    """The method that trains, if it is not the case's name."""


_PAIRS = Case("mixed", 420, "preferences", ("data.max_eval_rows=120",))
_MANNERS = ("method.rewards.holds_answer=1", f"method.rewards.regex.pattern='{POLITE_PATTERN}'")
_GROUPS = Case("mixed", 1152, "prompts", (*_MANNERS, "method.max_completion_length=32"))
CASES = {
    "pretrain": Case("found", 2826, "prose", ("data.max_length_tokens=32",), by_loss=True),
    "sft": Case("found", 1200, "instructions"),
    "instruct": Case("knows", 900, "manners", by_loss=True),
    **dict.fromkeys(("dpo", "ipo", "kto", "orpo", "cpo", "simpo"), _PAIRS),
    "reward": Case("mixed", 720, "preferences", ("data.max_eval_rows=120",)),
    "distillation": Case("found", 360, "prompts", ("method.max_completion_length=32",), by_loss=True),
    "ppo": Case("mixed", 720, "prompts", (*_MANNERS, "method.max_new_tokens=32")),
    "grpo": _GROUPS,
    "rloo": _GROUPS,
    "online_dpo": Case("mixed", 0, "preferences", trains="dpo"),
}
ROUNDS, PROMPTS, ANSWERS = 2, 160, 3
"""Of online_dpo, where a rule judges: rounds, prompts of a round, and answers to each."""


def new_structure(method: str) -> Structure:
    """What a method declares for a real model."""
    declared: Any = get_method(method)
    training, group = declared.training, 1
    if "num_generations" in declared.completed({}):
        own = spec_of(Request(overrides=(f"method={method}", "model=tiny", "method.rewards.ended=1"))).method
        group = int(declared.completed(own)["num_generations"])
    return Structure(
        epochs=int(training.epochs.value),
        rows=int(training.batch.value) * group,
        warmup=float(training.warmup.value),
        schedule=str(training.schedule.value),
        group=group,
        critic=None if training.critic is None else float(training.critic.value),
    )


def structures(name: str, part: str | None = None) -> dict[str, Structure]:
    """Both structures of a case.

    Args:
        part: the one thing in which they differ; None is all.
    """
    critic = 1.0 if name == "ppo" else None
    own = {"group": OLD_GROUPS.get(name, 1), "critic": critic, "fields": OLD_FIELDS.get(name, {})}
    old, new = Structure(**{**asdict(OLD), **own}), new_structure(CASES[name].trains or name)
    return {"old": replace(new, **{part: getattr(old, part)}) if part else old, "new": new}


def built_in_rate(method: str) -> float:
    """The built-in world's learning rate for full fine-tuning."""
    return float(defaults.LEARNING_RATES[method][0])


# --- what a cell does ------------------------------------------------------------------------------------------------


def words_of(method: str, how: Structure, rate: float, seed: int) -> list[str]:
    """What is typed for a training of that structure, whatever its rows."""
    words = [
        *COMMON, f"method={method}", f"seed={seed}", f"train.learning_rate={rate!r}",
        f"train.num_train_epochs={how.epochs}", f"train.per_device_train_batch_size={how.rows}",
        f"train.warmup_steps={how.warmup}", f"train.lr_scheduler_type={how.schedule}",
        *(f"method.{key}={value}" for key, value in how.fields.items()),
    ]  # fmt: skip
    words += [f"method.num_generations={how.group}"] if how.group > 1 else []
    return words + ([f"method.value_learning_rate={rate * how.critic!r}"] if how.critic is not None else [])


class World:
    """The models and files that cells start from, in a folder."""

    def __init__(self, cells: Cells) -> None:
        self._cells, self._folder = cells, cells.folder.resolve()

    def prepare(self) -> None:
        """Train the models that are not there."""
        for split in ("train", "eval"):
            files = [tiny.set_path(name, split) for name in ("manners", "instructions")]
            rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
            random.Random(1).shuffle(rows)
            texts = [" / ".join(turn["content"] for turn in row["messages"]) for row in rows]
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            (self._folder / f"prose.{split}.jsonl").write_text(lines, encoding="utf-8")
        sft = ("method=sft", "seed=1", "train.per_device_train_batch_size=8", "run.score_rows=0")
        for name, base, data, rate, epochs in (
            ("knows", "found", "instructions", 1e-3, 2),
            ("mixed", "knows", "manners", 7e-4, 1),
        ):
            words = (*COMMON, *sft, *self.reading(base, data), f"train.learning_rate={rate}")
            run = self._folder / name
            self._cells.of(f"base {name}", partial(_base, (*words, f"train.num_train_epochs={epochs}"), run))

    def reading(self, base: str, data: str) -> tuple[str, ...]:
        """The words that name a model and rows."""
        model = "builtin:tiny" if base == "found" else str(self._folder / base)
        files = [self._folder / f"prose.{s}.jsonl" if data == "prose" else tiny.set_path(data, s) for s in _SPLITS]
        return (f"model.name_or_path={model}", f"data.path={files[0]}", f"data.eval_path={files[1]}")

    def cell(self, name: str, how: Structure, rate: float, seed: int, folder: Path) -> Row:
        """One training of a case; its held-out measures."""
        case = CASES[name]
        method = case.trains or name
        words = words_of(method, how, rate, seed)
        if name == "online_dpo":
            return self._rounds(how, words, seed, folder)
        teacher = (f"method.teacher_model={self._folder / 'knows'}",) if method == "distillation" else ()
        rows = case.rows // (how.epochs * how.group)
        return _trained(
            (*words, *case.words, *teacher, *self.reading(case.base, case.data), f"data.max_rows={rows}"),
            folder / "run",
            keep=False,
        )

    def _rounds(self, how: Structure, words: Sequence[str], seed: int, folder: Path) -> Row:
        """Rounds of sampling, judging by a rule, and DPO on the pairs; as many answers in each structure, and as many
        pairs times passes."""
        policy, tokens, found = str(self._folder / "mixed"), 0, Row()
        for number in range(1, ROUNDS + 1):
            place = folder / str(number)
            model = BackendSettings(type="local", model=policy, batch_size=120)
            rule = BackendSettings(type="rules", patterns=list(RUDE_WORDS))
            principles = {"mode": "score", "constitution": str(tiny.DATA_DIR / "principles.yaml")}
            ways = {"n": ANSWERS, "max_new_tokens": 32}
            _make(place / "sample", "generate", "generator", str(tiny.set_path("prompts", "train")), model, ways, seed)
            _make(place / "judge", "judge", "judge", str(place / "sample" / "data.jsonl"), rule, principles, seed)
            pairs = place / "judge" / "data.jsonl"
            rows = len(pairs.read_text(encoding="utf-8").splitlines()) // how.epochs
            held_out = f"data.eval_path={tiny.set_path('preferences', 'eval')}"
            own = (f"model.name_or_path={policy}", f"data.path={pairs}", held_out, f"data.max_rows={rows}")
            found = _trained((*words, *own), place / "dpo", keep=number < ROUNDS)
            policy, tokens = str(place / "dpo"), tokens + found["tokens"]
        return {**found, "tokens": tokens}


_SPLITS = ("train", "eval")


def _make(folder: Path, task: str, role: str, rows: str, backend: BackendSettings, settings: Row, seed: int) -> None:
    folder.mkdir(parents=True)
    most = PROMPTS if task == "generate" else None
    spec = SynthesisSpec(
        task=task, seed=seed, dir=str(folder), rows=rows, role=role, backend=backend, settings=settings, max_rows=most
    )
    (folder / FILE).write_text(spec.to_json(), encoding="utf-8")
    make(folder)


def _base(words: Sequence[str], run_dir: Path, _: Path) -> Row:
    shutil.rmtree(run_dir, ignore_errors=True)
    return _trained(words, run_dir)


def _trained(words: Sequence[str], run_dir: Path, *, keep: bool = True) -> Row:
    """Train a run; what is measured at its end.

    Args:
        keep: as the worker does, with the model saved; otherwise without the measurement before training.
    """
    spec = spec_of(Request(overrides=tuple(words)))
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    if keep:
        result = train(run_dir)
        return {"score": (result["score"] or {}).get("after"), "tokens": result["tokens_trained"]}
    run = load(spec, run_dir)
    trainer = build_trainer(run)
    trainer.train()
    found = measure(run, trainer)
    return {
        "score": found["score"].get("value"),
        "eval_loss": found["eval_loss"],
        "steps": trainer.state.global_step,
        "tokens": trainer.state.num_input_tokens_seen,
        **({"sampled": _sampled(run, trainer)} if run.rewards is not None else {}),
    }


def _sampled(run: Loaded, trainer: Any) -> float:
    """The mean reward of answers sampled for the held-out prompts: what the policy is trained for.

    Greedy answers, which the method's own metric is of, are alike in policies that differ.
    """
    rewards, rows = run.rewards, list(run.data.held_out or ()) * HELD_OUT_ANSWERS
    assert rewards is not None
    policy = trainer.accelerator.unwrap_model(trainer.model)
    policy.eval()
    set_seed(TUNING_SEED)
    answers = sample(policy, run.tokenizer, rows, max_new_tokens=32, temperature=1.0, batch_size=240)
    return float(rewards.total(rewards(answers)).mean())


# --- comparing -------------------------------------------------------------------------------------------------------


def value_of(case: Case, cell: Row) -> float:
    """What is compared: the higher the better."""
    return float(-cell["eval_loss"] if case.by_loss else cell.get("sampled", cell["score"]))


def _metric(name: str) -> str:
    method = get_method(CASES[name].trains or name)
    return "mean reward of sampled answers" if method.samples else method.score


def best_of(value: Callable[[float], float]) -> float:
    """The best of FACTORS, from 1 upwards while that is better, else downwards; the smaller of two that are as good."""
    values = {factor: value(factor) for factor in (1.0, 2.0)}
    rises = values[2.0] > values[1.0]
    left = [factor for factor in FACTORS if (factor > 2 if rises else factor < 1)]
    values |= {factor: value(factor) for factor in left}
    return max(sorted(values), key=lambda factor: values[factor])


def compared(world: World, cells: Cells, name: str, seeds: Sequence[int], part: str | None) -> Row:
    """Both structures of a case, each at its best rate."""
    case, built_in = CASES[name], built_in_rate(CASES[name].trains or name)
    found: Row = {"name": name, "measure": "held-out loss, its sign turned" if case.by_loss else _metric(name)}
    values: dict[str, list[float]] = {}
    for arm, how in structures(name, part).items():

        def cell(factor: float, seed: int, arm: str = arm, how: Structure = how) -> Row:
            # Another structure, case or rate is another cell.
            digest = hashlib.sha256(repr((case, how, built_in)).encode()).hexdigest()[:8]
            work = partial(world.cell, name, how, built_in * factor, seed)
            return cells.of(f"{name} {arm} {factor:g} {seed} {digest}", work)

        best = best_of(lambda factor, cell=cell: value_of(case, cell(factor, TUNING_SEED)))
        rows = [cell(best, seed) for seed in seeds]
        values[arm] = [value_of(case, row) for row in rows]
        found[arm] = {
            "structure": asdict(how),
            "rate": built_in * best,
            "factor": best,
            "values": values[arm],
            "tokens": round(mean(row["tokens"] for row in rows)),
            "processor_seconds": round(sum(row["processor_seconds"] for row in rows), 1),
        }
    middle, low, high = interval([new - old for old, new in zip(values["old"], values["new"], strict=True)])
    found["difference"] = {"mean": middle, "low": low, "high": high}
    found["verdict"] = "higher" if low > 0 else "lower, and keeps its source" if high < 0 else "not told apart"
    return found


def shown(found: Sequence[Row]) -> str:
    """The comparison as a table."""
    rows = []
    for each in found:
        arms = [each[arm] for arm in ("old", "new")]
        passes = [f"{arm['structure']['epochs']} × {arm['structure']['rows']}" for arm in arms]
        values = [f"{mean(arm['values']):.3f}" for arm in arms]
        between = "{mean:+.3f} ({low:+.3f} to {high:+.3f})".format(**each["difference"])
        rows.append((each["name"], *passes, *(f"{arm['rate']:g}" for arm in arms), *values, between, each["verdict"]))
    head = ("Method", "Old: passes × rows", "New", "Old rate", "New rate", "Old", "New", "Difference", "New is")
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--part", choices=PARTS, help="compare it alone; nothing is saved")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    cells = Cells(options.folder)
    world = World(cells)
    world.prepare()
    seeds = range(1, options.seeds + 1)
    found = [compared(world, cells, name, seeds, options.part) for name in options.only.split(",")]
    print(shown(found))
    if options.save and options.part is None:
        keep("defaults", "methods", found, CASES, factors=FACTORS, tuning_seed=TUNING_SEED)
    short = [each["name"] for each in found if each["name"] in HIGHER and each["verdict"] != "higher"]
    if short and options.part is None:
        raise SystemExit(f"no better than before: {', '.join(short)}")


if __name__ == "__main__":
    main()
