"""What is measured, each by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from contenders import by_axolotl, by_ftcli, by_llamafactory, by_msswift, by_trl
from contenders.files import make_all, work_of
from contenders.run import BUILD, Failed, leak, run
from contenders.work import CORES, CannotDo, Contender, Work

CONTENDERS: dict[str, Contender] = {
    each.CONTENDER.name: each.CONTENDER for each in (by_ftcli, by_trl, by_llamafactory, by_axolotl, by_msswift)
}
OURS = "ftcli"
LEAKS = 1e-4
"""States that move further than this, when only another document changes, are not rounding: it leaks."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A training that all contenders do, and which of its numbers are told."""

    what: str
    method: str
    num_rows: int
    numbers: tuple[str, ...]
    batch: int = 4
    """Rows a step; packed, rows of `longest` tokens."""
    longest: int = 2048
    packed: bool = False
    grouped: bool = False
    steps: int | None = None
    workers: int = 1
    only: tuple[str, ...] = tuple(CONTENDERS)

    def work(self, model: Path, demo: Path, steps: int | None, *, bfloat16: bool = False) -> Work:
        """What is asked of each contender; `steps` in place of its own where it has several."""
        rows = make_all(BUILD / "contenders", demo, self.method, self.num_rows)
        shape = {"packed": self.packed, "grouped": self.grouped, "batch": self.batch, "longest": self.longest}
        shape |= {"workers": self.workers, "bfloat16": bfloat16}
        asked = self.steps if self.steps == 1 else steps or self.steps
        return work_of(self.method, model, rows, steps=asked, **shape)


HIGHER_IS_BETTER = ("tokens_per_second",)
START, SPEED = ("first_step_seconds",), ("tokens_per_second", "peak_mib")
MEASURES: dict[str, Measure] = {
    "start-sft": Measure(
        what="start to the end of the first step, SFT", method="sft", num_rows=48, numbers=START, steps=1
    ),
    "start-dpo": Measure(
        what="start to the end of the first step, DPO", method="dpo", num_rows=48, numbers=START, steps=1, batch=2
    ),
    "sft": Measure(what="SFT, not packed", method="sft", num_rows=48, numbers=SPEED, grouped=True),
    "packed": Measure(what="SFT, packed", method="sft", num_rows=80, numbers=SPEED, batch=1, packed=True),
    "dpo": Measure(what="DPO", method="dpo", num_rows=24, numbers=SPEED, batch=2),
    "kto": Measure(what="KTO", method="kto", num_rows=28, numbers=SPEED, batch=2),
    "orpo": Measure(what="ORPO", method="orpo", num_rows=24, numbers=SPEED, batch=2),
    "reward": Measure(what="reward model", method="reward", num_rows=24, numbers=SPEED, batch=2),
    "rows-50k": Measure(
        what="50,000 rows to the end of the first step, SFT", method="sft", num_rows=50_000,
        numbers=("first_step_seconds", "peak_mib"), steps=1, workers=CORES,
    ),
    "grpo": Measure(
        what="GRPO, 8 answers of 64 tokens to a prompt", method="grpo", num_rows=48,
        numbers=("step_seconds", "peak_mib"), batch=8, steps=8, only=("ftcli", "trl"),
    ),
}  # fmt: skip


@dataclass
class Found:
    """What runs of a measure gave: by contender a list, one for each round; and why some gave none."""

    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)

    def ratios(self, number: str) -> dict[str, Any] | None:
        """Round by round, ours over the best contender's; for seconds and memory below 1 is better, else above."""
        best_of = max if number in HIGHER_IS_BETTER else min
        values = {name: [each[number] for each in runs] for name, runs in self.runs.items()}
        ours = values.pop(OURS, [])
        theirs = [best_of(each) for each in zip(*values.values(), strict=True)] if values else []
        if not ours or not theirs or None in (*ours, *theirs):
            return None
        each = [one / other for one, other in zip(ours, theirs, strict=True)]
        name = best_of(values, key=lambda name: median(values[name]))
        return {"best": name, "median": round(median(each), 3), "each": [round(ratio, 3) for ratio in each]}


def rounds(measure: Measure, work: Work, pythons: Mapping[str, Path], pairs: int, found: Found) -> Iterator[str]:
    """All contenders in turns, forwards and then backwards; adds to what is found, and tells each run."""
    names = [name for name in pythons if name in measure.only]
    for number in range(pairs):
        for name in names if number % 2 == 0 else reversed(names):
            if name in found.cannot:
                continue
            try:
                seen = run(CONTENDERS[name], pythons[name], work).to_dict()
            except (CannotDo, Failed) as reason:
                found.cannot[name] = str(reason)[-300:]
                found.runs.pop(name, None)
                yield f"{name:13} {reason}"
            else:
                found.runs.setdefault(name, []).append(seen)
                yield f"{name:13} {seen}"


def leaks(work: Work, pythons: Mapping[str, Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """By contender, whether its packed rows leak from one document to the next.

    LLaMA-Factory is asked again for its packing that does not keep documents apart: what finds no leak there finds none
    anywhere.
    """
    works = [(name, name, work) for name in pythons]
    if "llamafactory" in pythons:
        works.append(("llamafactory, packing without neat_packing", "llamafactory", replace(work, apart=False)))
    for label, name, asked in works:
        try:
            told = leak(CONTENDERS[name], pythons[name], asked)
        except (CannotDo, Failed) as reason:
            yield label, {"cannot": str(reason)[-300:]}
        else:
            yield label, {**told, "leaks": None if told["moved"] is None else told["moved"] > LEAKS}
