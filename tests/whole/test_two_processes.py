"""Two gloo processes train as one does at the same global batch, and a world that is not the plan's is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs import rundir
from tests.whole.conftest import Ranks, Train, steps

COMMON = (
    "peft=lora", "train.learning_rate=3e-3", "train.max_steps=6", "train.logging_steps=1", "train.save_strategy=no",
    "train.eval_strategy=no", "run.score_rows=16", "data.eval_path=held.jsonl", "data.max_rows=200",
    "hardware.num_threads=1",
)  # fmt: skip


def losses(run: Path) -> list[float]:
    """The loss of every step."""
    lines = map(json.loads, (run / rundir.METRICS).read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


MIXED = ("data.mix.sums.share_of_mix=0.5", "data.mix.words.share_of_mix=0.5", "data.streaming=true")


@pytest.mark.parametrize("source", ["file", "stream"])
def test_two_processes_give_the_loss_curve_of_one(source, here, ftcli_run: Train, ranks_of: Ranks):
    rows = tiny.set_path("sft", "train").read_text(encoding="utf-8").splitlines(keepends=True)
    # Weights that differ between the two processes of a step: each divides by the sum of all of them.
    weighed = [json.dumps({**json.loads(row), "weight": 1 + index % 5}) + "\n" for index, row in enumerate(rows[:200])]
    for name, some in (("sums", rows[:100]), ("words", rows[100:200]), ("weighed", weighed), ("held", rows[200:232])):
        (here / f"{name}.jsonl").write_text("".join(some), encoding="utf-8")
    data = [f"data.mix.{name}.path={name}.jsonl" for name in ("sums", "words")] if source == "stream" else []
    # A gradient that is divided wrongly shows under SGD; Adam hides its size, and makes much of how sums are rounded.
    plain = ("train.optim=sgd", "train.learning_rate=0.3")
    common = (*COMMON, *plain, *data, *(MIXED if source == "stream" else ("data.path=weighed.jsonl",)))

    def train(number: int, *words: str) -> None:
        if source == "file":  # from the command line, by way of the launcher
            ftcli_run("train", *words, cwd=here)
            return
        spec = spec_of(Request(overrides=words))
        (here / str(spec.run.dir)).mkdir()
        (here / str(spec.run.dir) / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
        ranks_of("ftcli.worker", "train", str(here / str(spec.run.dir)), cwd=here, number=number)

    train(1, *common, "train.per_device_train_batch_size=8", "run.dir=one")
    several = ("hardware=cpu", "hardware.num_processes=2", "train.per_device_train_batch_size=4")
    train(2, *common, *several, "run.dir=two")
    one, two = losses(here / "one"), losses(here / "two")
    assert len(one) == len(two) == 6
    assert one[-1] < one[0] - 0.1
    assert two == pytest.approx(one, abs=1e-5)  # also where the held-out rows were measured before
    assert json.loads((here / "two" / rundir.SPEC).read_text())["launch"]["num_processes"] == 2


@pytest.mark.parametrize("source", ["labels", "pairs"])
def test_kto_has_one_reference_point_over_processes_and_accumulated_batches(source, here, ranks_of: Ranks):
    rows = map(json.loads, tiny.set_path("preference", "train").read_text(encoding="utf-8").splitlines()[:48])
    if source == "labels":  # in an order in which the batches of the processes differ
        rows = ({"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
                for index, row in enumerate(rows) for side in ("chosen" if index % 3 else "rejected",))  # fmt: skip
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    layouts = {
        "one": ("hardware=cpu", "train.per_device_train_batch_size=8", "train.gradient_accumulation_steps=1"),
        "two": ("hardware=cpu", "hardware.num_processes=2", "train.per_device_train_batch_size=2",
                "train.gradient_accumulation_steps=2"),
    }  # fmt: skip
    common = (
        "method=kto",
        "method.beta=0.3",
        "method.undesirable_weight=0.1",
        "train.learning_rate=1e-3",
        "train.warmup_steps=0",
        "run.score_rows=0",
    )
    common += (
        "method.desirable_weight=1",
        "data.path=rows.jsonl",
        "train.max_steps=4",
        "train.logging_steps=1",
        "train.save_strategy=no",
    )
    common += ("train.eval_strategy=no", "hardware.num_threads=1")
    for name, layout in layouts.items():
        spec = spec_of(Request(overrides=(*common, *layout, f"run.dir={here / name}")))
        (here / name).mkdir()
        (here / name / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
        ranks_of("ftcli.worker", "train", str(here / name), cwd=here, number=spec.launch.num_processes)
    one, two = ([(step["loss"], step["kl"]) for step in steps(here / name)] for name in layouts)
    assert len(one) == 4
    assert one[-1][1] > 0.01, "nothing is shown by a point that stays at 0"
    assert two == [pytest.approx(step, abs=1e-5) for step in one]
