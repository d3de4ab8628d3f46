"""Stages about speed: beside a plain TRL script, and attention kernels on long packed rows."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ftcli.models.attention_kernels import FLASH
from tests.gpu import rows
from tests.gpu.bench import REPOSITORY, Bench, Failed, Findings, environment, lines_of, peak_of

_LEAST, _AIM = 0.97, 1.10
"""Tokens a second beside a plain TRL script: what must be reached, and what is hoped for."""
_EQUAL_LOSS = 1e-3
_EVERY = 5
"""Steps between two logged losses: what logging costs would else be a good part of a short step."""
_COMPARED_STEPS = 10
"""Steps whose losses must be equal: later ones carry on what kernels round differently."""
_WORSE = 1.05
"""A chosen kernel may be so much slower than the best: the spread of a few steps."""
_BATCH = 8


def seconds_per_step(times: list[float], every: int = 1) -> float:
    """The median time of a step in the second half, in which kernels are chosen and caches full.

    Args:
        times: when a loss was logged, after each `every` steps.
    """
    gaps = [after - before for before, after in pairwise(times)]
    return median(gaps[len(gaps) // 2 :]) / every


def means(lines: list[dict[str, Any]], every: int) -> list[float]:
    """The mean loss of each `every` steps, where the first step was logged as well."""
    found, total, last = [], 0.0, 0
    for line in lines:
        total += line["loss"] * (line["step"] - last)
        last = line["step"]
        if last % every == 0:
            found.append(total / every)
            total = 0.0
    return found


def _plain(bench: Bench, data: Path, steps: int) -> dict[str, Any]:
    """The hand-written script: its losses, times and peak."""
    out = bench.run_dir("plain")
    script = REPOSITORY / "benchmarks" / "plain_trl.py"
    settings = ["--device", bench.device, "--batch", str(_BATCH), "--rate", "1e-5", "--every", str(_EVERY)]
    command = [sys.executable, str(script), str(bench.model("1b")), str(data), str(out), str(steps), *settings]
    # A constant rate: transformers' warm-up begins with a step of rate 0, which ftcli's does not.
    command += ["--schedule", "constant"]
    done = subprocess.run(
        command, cwd=bench.folder, env=environment(bench.folder), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed(f"the plain TRL script: exit {done.returncode}\n{done.stderr[-1500:]}")
    found: dict[str, Any] = json.loads((out / "last.json").read_text(encoding="utf-8"))
    return found


def throughput(bench: Bench, found: Findings) -> None:
    """Full SFT beside a plain TRL script that does the same steps: time of a step, and losses."""
    steps = bench.either(60, 20)
    length = bench.either(1024, 64)
    data = rows.conversations(bench.folder, 320, length, length // 8)
    plain = _plain(bench, data, steps)
    shared = [
        "method=sft", "peft=none", f"model={bench.model('1b')}", f"data.path={data}", "data.eval_path=null",
        f"train.max_steps={steps}", f"train.logging_steps={_EVERY}", "train.learning_rate=1e-5",
        "train.gradient_accumulation_steps=1",
        "train.lr_scheduler_type=constant", "train.warmup_steps=0", "train.gradient_checkpointing=false",
        "train.save_strategy=no", "train.eval_strategy=no", "run.score_rows=0", "model.attn_implementation=sdpa",
        f"data.max_length_tokens={4 * length}",
    ]  # fmt: skip
    rows_of_pass = f"train.per_device_train_batch_size={_BATCH}"
    run, result = bench.train("ours", *shared, "method.packing=false", rows_of_pass)
    lines = lines_of(run)
    differences = [abs(one - other) for one, other in zip(means(lines, _EVERY), plain["losses"], strict=True)]
    times = [line["elapsed_seconds"] for line in lines if line["step"] % _EVERY == 0]
    each = {
        "plain": seconds_per_step(plain["seconds"], _EVERY),
        "ours": seconds_per_step(times, _EVERY),
    }
    ratio, apart = each["plain"] / each["ours"], max(differences[: _COMPARED_STEPS // _EVERY])
    found.figures |= {
        "seconds_per_step": {name: round(value, 4) for name, value in each.items()},
        "ratio": round(ratio, 3),
        "aim_reached": ratio >= _AIM,
        "loss_difference": {"first_steps": apart, "all": max(differences), "last": differences[-1]},
        "peak_reserved_gib": {"plain": plain["peak_reserved_gib"], "ours": peak_of(result)},
        "machine": result.get("machine"),
    }
    found.expect_on_card(
        ratio >= _LEAST, f"ftcli is at least {_LEAST} times as fast as a plain TRL script ({ratio:.3f})"
    )
    equal = f"the losses of the first {_COMPARED_STEPS} steps differ by at most {_EQUAL_LOSS:g} ({apart:.1e})"
    found.expect(apart <= _EQUAL_LOSS, equal)
    # Blocks of four times the length: a quarter of the rows has as many places for tokens.
    _, result = bench.train(
        "packed", *shared, "method.packing=true", f"train.per_device_train_batch_size={_BATCH // 4}"
    )
    _beside_padded(found, result, plain, each["plain"])


def _beside_padded(found: Findings, result: dict[str, Any], plain: dict[str, Any], seconds: float) -> None:
    """What packing gives beside the padded batches of the plain script."""
    packed = (result.get("machine") or {}).get("tokens_per_second")
    padded = plain["tokens"] / plain["steps"] / seconds
    found.figures["packed"] = {
        "tokens_per_second": packed,
        "plain_tokens_per_second": round(padded, 1),
        "ratio": round(packed / padded, 3) if packed else None,
    }


def attention(bench: Bench, found: Findings) -> None:
    """Packed rows of 8,192 tokens: the kernel that a run measures and takes is as fast as the best of those here."""
    length = bench.either(8192, 512)
    data = rows.conversations(bench.folder, bench.either(1200, 200), bench.either(1024, 64), bench.either(128, 24))
    shared = [
        "method=sft", "peft=lora", f"model={bench.model('1b')}", f"data.path={data}", "data.eval_path=null",
        "method.packing=true", f"data.max_length_tokens={length}", f"train.max_steps={bench.either(10, 4)}",
        "train.per_device_train_batch_size=1", "train.gradient_accumulation_steps=1", "train.logging_steps=1",
        "train.eval_strategy=no",
        "train.save_strategy=no", "run.score_rows=0", "train.gradient_checkpointing=true",
    ]  # fmt: skip
    plan = bench.ftcli("plan", *bench.hardware, *shared, "--json").data()
    planned = next(str(note["value"]) for note in plan["notes"] if note["key"] == "model.attn_implementation")
    auto = bench.train("attention-auto", *shared)
    machine = auto[1]["machine"]
    chosen = str(machine["attention"])
    measured = machine.get("attention_measured")
    found.figures["auto"] = {"planned": planned, "taken": chosen, "measured": measured}
    found.expect_on_card(measured is not None, "a run on a card measures flex attention and sdpa at least")
    here = [name for name, kernel in FLASH.items() if kernel.is_installed]
    # Flex attention has no backward pass on a CPU.
    kernels = dict.fromkeys((chosen, *here, "sdpa", *(["flex_attention"] if bench.on_card else ["eager"])))
    for name in kernels:
        named = f"model.attn_implementation={name}"
        run, result = auto if name == chosen else bench.train(f"attention-{name}", *shared, named)
        times = [line["elapsed_seconds"] for line in lines_of(run)]
        found.figures[name] = {
            "seconds_per_step": round(seconds_per_step(times), 4),
            "first_step_seconds": times[0],
            "loss_last": result["loss_last"],
            "peak_reserved_gib": peak_of(result),
        }
    steps = {name: found.figures[name]["seconds_per_step"] for name in kernels}
    best = min(steps, key=lambda name: steps[name])
    found.figures["best"] = best
    slower = f"auto takes {chosen} at {steps[chosen]:.3f} s a step, and {best} takes {steps[best]:.3f}"
    found.expect_on_card(steps[chosen] <= _WORSE * steps[best], slower)
    losses = [found.figures[name]["loss_last"] for name in kernels]
    found.expect(max(losses) - min(losses) < 0.02, "all kernels come to the same loss")
