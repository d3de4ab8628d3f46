"""A plan is compared with its card, and what would make it fit is found among its own settings."""

from __future__ import annotations

import pytest

from ftcli.build.fitting import TIGHT, expected, fit, keep_expected, kept_expected, smaller, totals
from ftcli.build.resolve import run_of
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core import hardware
from ftcli.core.hardware import Gpu
from ftcli.plan.outlook import plan
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import rundir

LLAMA = "model=llama"


def planned(*overrides: str) -> ResolvedRun:
    return run_of(Request(overrides=overrides))


@pytest.mark.parametrize(
    ("overrides", "verdict"),
    [
        ((LLAMA, "hardware.gpu=24GiB"), "does not fit"),
        ((LLAMA, "peft=lora", "hardware.gpu=18GiB"), "tight"),
        ((LLAMA, "peft=lora", "hardware.gpu=rtx4090"), "fits"),
    ],
)
def test_the_verdict_compares_the_plan_with_the_card(overrides, verdict):
    run = planned(*overrides)
    found = fit(run, plan(run))
    assert found is not None
    assert found.verdict == verdict


def test_the_time_follows_from_the_card_s_rate():
    slow, fast = (planned("model=qwen-0.6b", f"hardware.gpu={name}") for name in ("l4", "h100"))
    times = [found.seconds for found in (fit(run, plan(run)) for run in (slow, fast)) if found and found.seconds]
    assert times[0] / times[1] == pytest.approx(989 / 121)
    flops = plan(fast).flops
    assert flops is not None
    # checkpointing computes the forward pass again: 8 in place of 6 operations per parameter and token
    assert times[1] == pytest.approx(flops * 8 / 6 / (0.35 * 989e12))
    unknown = fit(planned("hardware.gpu=24GiB"), plan(planned("hardware.gpu=24GiB")))
    assert unknown is not None
    assert unknown.seconds is None


def test_what_was_expected_of_a_card_is_kept_once_the_run_has_ended_on_one(tmp_path):
    run = planned(LLAMA, "peft=lora", "hardware.gpu=h100")
    for machine in ({}, {"peak_reserved_gib": None}):
        rundir.write_json(tmp_path / rundir.RESULT, {"schema": 1, "machine": machine})
        keep_expected(run.spec, tmp_path)
        assert kept_expected(tmp_path) == {}
    rundir.write_json(tmp_path / rundir.RESULT, {"schema": 1, "machine": {"peak_reserved_gib": 20.0}})
    keep_expected(run.spec, tmp_path)
    kept = kept_expected(tmp_path)
    assert kept == expected(run, plan(run))
    assert kept["memory_gib"]
    rundir.write_json(tmp_path / rundir.PLAN, {"schema": 1, "memory_gib": "much", "seconds": None})
    assert kept_expected(tmp_path) == {}


def test_runs_that_follow_each_other_take_the_sum_of_their_time_and_the_most_of_their_memory():
    card = ("hardware.gpu=h100", "peft=lora")
    runs = {name: planned(f"model={name}", *card) for name in ("llama-1b", "llama-3b")}
    each = {name: (run, plan(run)) for name, run in runs.items()}
    fits = {name: fit(*pair) for name, pair in each.items()}
    found = totals(each)
    assert found.memory_of == "llama-3b"
    assert found.memory_gib == fits["llama-3b"].needs_gib  # type: ignore[union-attr]
    assert found.seconds == pytest.approx(sum(one.seconds for one in fits.values()))  # type: ignore[union-attr,misc]
    assert found.steps == sum(outlook.steps for _, outlook in each.values())
    unknown = planned("model.name_or_path=someone/unheard-of", "hardware.gpu=h100")
    found = totals({**each, "unknown": (unknown, plan(unknown))})
    assert (found.memory_gib, found.flops, found.seconds) == (None, None, None)


def test_a_run_on_the_cpu_has_no_verdict():
    run = planned("hardware=cpu")
    assert fit(run, plan(run)) is None


def test_the_smallest_of_several_cards_decides_and_what_others_use_is_told(monkeypatch):
    cards = (Gpu("A100", 80.0, (8, 0), 80.0), Gpu("L4", 22.5, (8, 9), 3.0))
    monkeypatch.setattr(hardware, "gpus", lambda: cards)
    run = planned(LLAMA, "peft=lora", "hardware=multi_gpu")
    found = fit(run, plan(run))
    assert found is not None
    assert (found.card, found.have_gib) == ("L4", 22.5)
    assert str(found).endswith("; only 3.0 GiB are free now")


LONG = ("train.per_device_train_batch_size=64", "data.max_length_tokens=2048")


@pytest.mark.parametrize(
    ("overrides", "settings"),
    [
        # what costs least comes first, and what a later change makes needless is left out
        (("model=llama-3b", "hardware.gpu=a6000"), ("train.optim=paged_adamw_8bit",)),
        ((LLAMA, "hardware.gpu=24GiB"), ("peft=lora",)),
        ((LLAMA, "peft=lora", "hardware.gpu=12GiB"), ("peft=qlora",)),
        (
            (LLAMA, "peft=lora", "hardware.gpu=24GiB", *LONG),
            ("train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=16"),
        ),
    ],
)
def test_the_smallest_change_that_fits_is_found_and_fits_when_typed(overrides, settings):
    run = planned(*overrides)
    found = fit(run, plan(run))
    assert found is not None
    change = smaller(run, TIGHT * found.have_gib)
    assert change is not None
    assert change.settings == settings
    given = [each for each in overrides if each.partition("=")[0] not in {word.partition("=")[0] for word in settings}]
    memory = plan(planned(*given, *change.settings)).memory
    assert memory is not None
    assert memory.total_gib == pytest.approx(change.total_gib)
    assert memory.total_gib <= TIGHT * found.have_gib


def test_where_nothing_is_enough_all_that_helps_is_named():
    change = smaller(planned(LLAMA, "peft=lora", "hardware.gpu=4GiB"), 4)
    assert change is not None
    assert "peft=qlora" in change.settings
    assert change.total_gib > 4
    assert smaller(planned("hardware=cpu"), 1000) is None  # it fits as it is


def test_train_refuses_what_does_not_fit_before_it_loads_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", LLAMA, "hardware.gpu=24GiB"]) == 4
    said = capsys.readouterr().err
    assert "does not fit" in said
    assert "peft=lora" in said
    assert "--anyway" in said
    assert not (tmp_path / "runs").exists()
    assert main(["train", LLAMA, "hardware.gpu=24GiB", "--anyway"]) == 2  # this machine has no GPU
    assert "GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "words"),
    [(("hardware.gpu=t5",), "not a known card"), (("hardware.gpu=t4", "hardware=cpu"), "uses no card")],
)
def test_a_card_without_effect_is_refused(overrides, words, capsys):
    assert main(["check", *overrides]) == 2
    assert words in capsys.readouterr().err


def test_what_a_run_is_expected_to_take_is_told_as_the_run_will_measure_it():
    run = planned("model=qwen-0.6b", "hardware.gpu=h100")
    outlook, verdict = plan(run), fit(run, plan(run))
    assert outlook.memory is not None
    assert verdict is not None
    found = expected(run, outlook)
    assert found["memory_gib"] == pytest.approx(verdict.needs_gib - outlook.memory["cuda_context"])
    assert outlook.memory["cuda_context"] > 0
    assert found["seconds"] == verdict.seconds
