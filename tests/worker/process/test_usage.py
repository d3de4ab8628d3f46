"""What a run measures of its machine, and its report beside the plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ftcli.build.resolve import spec_of
from ftcli.cli.render.summary import summary
from ftcli.config.compose import Request
from ftcli.worker.process import usage
from ftcli.worker.process.usage import FIRST_STEPS, Pace
from ftcli.worker.training.run import train


def paced(monkeypatch: pytest.MonkeyPatch, steps: list[tuple[float, float, int]]) -> Pace:
    """A pace after steps of so many seconds, each followed by a pause, and of so many tokens."""
    now = [100.0]
    monkeypatch.setattr(usage.time, "monotonic", lambda: now[0])
    pace, state = Pace(), SimpleNamespace(num_input_tokens_seen=0)
    pace.on_train_begin(None, state, None)
    for seconds, pause, tokens in steps:
        now[0] += seconds
        state.num_input_tokens_seen += tokens
        pace.on_step_end(None, state, None)
        now[0] += pause
        for event in ("on_log", "on_evaluate", "on_save"):
            getattr(pace, event)(None, state, None)
    return pace


def test_speed_leaves_out_the_first_steps_and_what_comes_between_steps(monkeypatch):
    slow, quick = [(10.0, 5.0, 100)] * FIRST_STEPS, [(0.5, 7.0, 100)] * 20
    assert paced(monkeypatch, slow + quick).tokens_per_second() == pytest.approx(200)


def test_speed_of_a_short_run_leaves_out_its_first_half(monkeypatch):
    assert paced(monkeypatch, [(9.0, 0, 10), (9.0, 0, 10), (1.0, 0, 10), (1.0, 0, 10)]).tokens_per_second() == 10
    assert paced(monkeypatch, [(9.0, 0, 10), (9.0, 0, 10), (1.0, 0, 10)]).tokens_per_second() == 10


def test_speed_of_one_step_or_of_rows_whose_tokens_are_not_counted_is_unknown(monkeypatch):
    for steps in ([], [(1.0, 0, 10)], [(1.0, 0, 0)] * 30):
        assert paced(monkeypatch, steps).tokens_per_second() is None


@pytest.mark.parametrize(("peft", "operations"), [("lora", 4), ("none", 6)])
def test_the_share_of_the_peak_rate_counts_the_processes_and_what_trains(peft, operations):
    spec = spec_of(Request(overrides=("model=qwen-0.6b", f"peft={peft}", "hardware=multi_gpu", "hardware.device=cpu")))
    tied = 596_049_920  # its parameters: the embedding is the head, so each is multiplied
    share = usage.share_of_peak(spec, 1e5, 989)
    assert share == pytest.approx(operations * tied * 1e5 / (989e12 * 2), abs=1e-4)
    assert usage.share_of_peak(spec, None, 989) is usage.share_of_peak(spec, 1e5, 0) is None


def test_a_run_on_a_cpu_says_its_memory_its_kernel_and_its_speed(make_spec, new_run, sft_file):
    spec = make_spec(sft_file)
    machine = train(new_run(spec, "run"))["machine"]
    assert machine["device"] == "cpu"
    assert machine["attention"] == "sdpa"
    assert 0.1 < machine["peak_resident_gib"] < 20
    assert machine["tokens_per_second"] > 0
    assert all(machine[key] is None for key in ("driver", "mfu", "peak_allocated_gib", "peak_reserved_gib"))


def test_peak_memory_is_asked_of_torch_where_it_uses_a_gpu(monkeypatch):
    for name, value in (("is_available", True), ("is_initialized", True)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**29)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 2**31)
    peaks = usage.peak_memory()
    assert 0 < peaks.pop("peak_resident_gib") < 20
    assert peaks == {"peak_allocated_gib": 1.5, "peak_reserved_gib": 2.0}


def test_the_report_puts_the_plan_beside_what_a_run_took(capsys, tmp_path):
    machine: dict[str, Any] = {"device": "NVIDIA H200", "tokens_per_second": 51234.5, "mfu": 0.412}
    machine |= {"peak_allocated_gib": 16.04, "peak_reserved_gib": 17.4}
    result = {"method": "sft", "model": "M", "peft": "lora", "steps": 9, "seconds": 130, "machine": machine}
    summary(tmp_path, result, {"memory_gib": 16.8, "seconds": 150.0})
    said = " ".join(capsys.readouterr().out.split())
    assert "speed 51,234 tokens/s, 41% of the peak rate of NVIDIA H200" in said
    assert "memory 17.4 GiB at its peak, 16.0 of them in use; planned 16.8" in said
    assert "time 2 min 10 s; planned about 2 min 30 s of training steps" in said
    measured = {"kernel": "sdpa", "why": "the fastest", "milliseconds": {"sdpa": 7.25, "eager": 31}, "left_out": {}}
    machine = {"tokens_per_second": 10.0, "peak_reserved_gib": None, "attention_measured": measured}
    summary(tmp_path, {**result, "machine": machine})
    said = " ".join(capsys.readouterr().out.split())
    assert "speed 10 tokens/s" in said
    assert "memory" not in said
    assert "attention sdpa, the fastest: sdpa 7.25 ms, eager 31 ms" in said
    summary(tmp_path, {key: value for key, value in result.items() if key != "machine"})  # of an earlier version
    assert "speed" not in capsys.readouterr().out
