"""`train.per_device_train_batch_size=auto`: the same rows a step, in the fastest way that fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ftcli.build.auto_batch import candidates, halved, settled
from ftcli.build.fitting import TIGHT, fit
from ftcli.build.resolve import run_of
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core.hardware import Gpu
from ftcli.plan.activations import Pass
from ftcli.plan.outlook import plan
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.plan.sharded_memory import Sharding
from ftcli.plan.step_time import USUAL_UTILISATION, Rates, step_seconds
from tests.plan.test_memory import LLAMA_2

AUTO = "train.per_device_train_batch_size=auto"
LONG = "data.max_length_tokens=2048"


def chosen(*overrides: str) -> ResolvedRun:
    return run_of(Request(overrides=(AUTO, *overrides)))


def taken(run: ResolvedRun) -> tuple[int, int, Any, Any]:
    train = run.spec.train
    return (run.batch.per_device, run.batch.accumulation, train["gradient_checkpointing"], train.get("fsdp"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # there is room for all 16 rows, so nothing is computed twice
        (("model=qwen-0.6b", "peft=lora", "hardware.gpu=h200", LONG), (16, 1, False, None)),
        # 16 rows do not fit on 24 GiB, 4 do, and only with checkpointing
        (("model=llama", "peft=lora", "hardware.gpu=rtx4090", LONG), (4, 4, True, None)),
        # what the user set stays: 8 rows a device, 4 times
        (("model=qwen-0.6b", "peft=lora", "hardware.gpu=h200", "train.gradient_checkpointing=true",
          "train.gradient_accumulation_steps=4"), (32, 1, True, None)),
        # whole copies of 70B fit on no card
        (("model=llama-70b", "hardware=multi_gpu", "hardware.num_processes=32", "hardware.gpu=h200", LONG,
          "train.gradient_accumulation_steps=1"), (8, 1, True, True)),
        (("hardware=cpu",), (8, 1, False, None)),
    ],
)  # fmt: skip
def test_the_fastest_way_that_fits_is_chosen(overrides, expected):
    run = chosen(*overrides)
    assert taken(run) == expected
    if run.spec.launch.device == "cuda":
        found = fit(run, plan(run))
        assert found is not None
        assert found.needs_gib <= TIGHT * found.have_gib


def test_the_rows_of_a_step_are_the_usual_ones_or_eight_times_the_passes_that_were_set():
    assert chosen("model=llama", "peft=lora", "hardware.gpu=rtx4090").batch.rows == 16
    assert chosen("model=llama", "peft=lora", "hardware.gpu=rtx4090", "method=dpo").batch.rows == 32
    for times in (1, 3):
        run = chosen("model=llama", "peft=lora", "hardware.gpu=rtx4090", f"train.gradient_accumulation_steps={times}")
        assert run.batch.rows == 8 * times
        assert all(
            each.settings["per_device_train_batch_size"] * each.settings["gradient_accumulation_steps"] == 8 * times
            for each in candidates(run)
        )


def test_rows_are_evaluated_in_twice_the_batch_that_was_chosen_or_halved_unless_set():
    def evaluated(run: ResolvedRun) -> Any:
        return run.spec.train["per_device_eval_batch_size"]

    run = chosen("model=llama", "peft=lora", "hardware.gpu=rtx4090", LONG)
    assert (run.batch.per_device, evaluated(run)) == (4, 8)
    smaller = halved(halved(run, ""), "")
    assert (smaller.batch.per_device, evaluated(smaller)) == (1, 2)
    typed = chosen("model=llama", "peft=lora", "hardware.gpu=rtx4090", LONG, "train.per_device_eval_batch_size=3")
    assert evaluated(halved(halved(typed, ""), "")) == 3


def test_every_way_is_the_plan_of_its_own_settings_and_the_first_is_the_fastest_that_fits():
    run = chosen("model=llama", "peft=lora", "hardware.gpu=rtx4090", LONG)
    found = candidates(run)
    assert len(found) == 10  # 1, 2, 4, 8 or 16 rows, with and without checkpointing
    for each in found:
        memory = plan(replace(run, spec=replace(run.spec, train={**run.spec.train, **each.settings}))).memory
        assert memory is not None
        assert each.total_gib == pytest.approx(memory.total_gib)
        assert each.fits == (each.total_gib <= TIGHT * 24)
    fitting = [each.seconds for each in found if each.fits]
    assert fitting == sorted(fitting)
    assert [each.fits for each in found] == sorted((each.fits for each in found), reverse=True)


def test_groups_of_answers_and_pairs_keep_their_batches():
    grpo = chosen("method=grpo", "method.rewards.ended=1", "method.num_generations=4")
    assert grpo.batch.answers_per_generation(grpo.spec.method) == 8
    kto = run_of(Request(overrides=(AUTO, "method=kto", "hardware=cpu")))
    assert all(each.settings["per_device_train_batch_size"] >= kto.method.min_batch for each in candidates(kto))


def test_where_nothing_fits_the_least_is_planned_and_train_refuses_it(capsys):
    run = chosen("model=llama-70b", "hardware.gpu=24GiB")
    assert run.spec.train["gradient_checkpointing"]
    assert "nothing fits" in next(note.why for note in run.spec.notes if note.key.endswith("batch_size"))
    assert main(["train", AUTO, "model=llama-70b", "hardware.gpu=24GiB"]) == 4


def test_a_stated_limit_decides_on_a_cpu():
    run = chosen("hardware=cpu", "model=qwen-0.6b", "peft=lora")
    least = min(each.total_gib for each in candidates(run))
    found = candidates(run, room_gib=least * 1.01)
    assert found[0].fits
    assert found[0].settings["gradient_checkpointing"]
    assert not any(each.fits for each in candidates(run, room_gib=least * 0.9))


def test_an_unknown_model_takes_the_smallest_passes():
    run = chosen("model.name_or_path=someone/unheard-of", "hardware.gpu=h100")
    assert taken(run) == (1, 16, True, None)
    assert "unknown" in next(note.why for note in run.spec.notes if note.key.endswith("batch_size"))


def test_half_the_rows_are_twice_the_passes():
    run = chosen("model=llama", "peft=lora", "hardware.gpu=rtx4090", LONG)
    smaller = halved(run, "with 4")
    assert smaller is not None
    assert (smaller.batch.per_device, smaller.batch.accumulation, smaller.batch.rows) == (2, 8, 16)
    assert [note.why for note in smaller.spec.notes if note.key.endswith("train_batch_size")] == [
        "halved: out of memory with 4"
    ]
    one = halved(smaller, "with 4")
    assert one is not None
    assert halved(one, "with 4") is None
    assert settled(run).spec.train == run.spec.train  # choosing again changes nothing
    rollouts = ("method=grpo", "method.rewards.ended=1", "method.num_generations=4", "method.steps_per_generation=2")
    grpo = run_of(Request(overrides=(*rollouts, "hardware=cpu")))
    assert halved(grpo, "with 8") is None  # a generation would have half the answers


def test_a_step_computes_reads_its_weights_and_moves_what_is_sharded():
    rates = Rates.of(Gpu("h100", 79.6, (9, 0)), None)
    assert (rates.operations, rates.memory) == (USUAL_UTILISATION * 989e12, 3350e9)
    how = Pass(rows=2, length=1024, checkpointing=False)
    total = 6_738_415_616
    given: dict[str, Any] = {"passes": 4, "mean_length": 512.0, "trained": total, "adapter": False}
    alone = step_seconds(LLAMA_2, how, rates, **given, sharding=Sharding())
    # of two rows the longest is expected halfway between the mean and the longest of all: 768 tokens each
    multiplied = total - 32000 * 4096  # the embedding only looks rows up
    each = 6 * multiplied * 2 * 768 / rates.operations + 2 * total * 2 / 3350e9
    assert alone == pytest.approx(4 * each)
    copies = step_seconds(LLAMA_2, how, rates, **given, sharding=Sharding(processes=2))
    assert copies - alone == pytest.approx(2 * total * 2 / 25e9)
    shared = Sharding(library="fsdp", stage=3, processes=2, whole_gradients=True)
    sharded = step_seconds(LLAMA_2, how, rates, **given, sharding=shared)
    assert sharded - alone == pytest.approx((2 * 4 + 1) * total * 2 / 25e9)


def test_the_plan_shows_what_was_chosen_and_what_the_others_would_cost(capsys):
    assert main(["plan", AUTO, "model=llama", "peft=lora", "hardware.gpu=rtx4090", LONG]) == 0
    printed = capsys.readouterr().out
    [line] = [line for line in printed.splitlines() if line.endswith("chosen")]
    assert "4 rows × 4 passes, checkpointing" in line
    assert "× the time" in printed
    assert "does not fit" in printed
    assert main(["plan", "train.per_device_train_batch_size=automatic"]) == 2
