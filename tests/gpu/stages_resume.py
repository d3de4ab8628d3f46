"""Stages about runs that stop and go on."""

from __future__ import annotations

import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from ftcli.core.errors import EXIT_INTERRUPTED
from tests.gpu import rows
from tests.gpu.bench import Bench, Failed, Findings, environment, ftcli_command, lines_of

_WAIT_SECONDS = 120
_EQUAL_LOSS = 1e-3


def _words(bench: Bench, steps: int) -> list[str]:
    data = rows.conversations(bench.folder, 200, bench.either(512, 64), bench.either(128, 24))
    return [
        "method=sft", "peft=lora", f"model={bench.model('1b')}", f"data.path={data}", "data.eval_path=null",
        f"train.max_steps={steps}", "train.save_steps=4", "train.logging_steps=1", "train.eval_strategy=no",
        "run.score_rows=0", "train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=1",
        f"data.max_length_tokens={bench.either(512, 64)}",
        *bench.hardware,
    ]  # fmt: skip


def stopped(bench: Bench, run: Path, words: list[str], after: int) -> tuple[int, str]:
    """Start a run, send it SIGTERM after a step, and wait: its exit code and what it said.

    Raises:
        Failed: it ended before that step, or never reached it.
    """
    command = ftcli_command(["train", f"run.dir={run}", *words])
    process = subprocess.Popen(
        command, cwd=bench.folder, env=environment(bench.folder), text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    ends = time.monotonic() + _WAIT_SECONDS
    while len(lines_of(run)) < after:
        if process.poll() is not None or time.monotonic() > ends:
            process.kill()
            said = process.communicate()[1]
            raise Failed(f"the run never came to step {after}\n{said[-1500:]}")
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=_WAIT_SECONDS)[1]
    return process.returncode, said


def resume(bench: Bench, found: Findings) -> None:
    """SIGTERM stops a run with a checkpoint, and resumed it ends as one that was never stopped."""
    steps = bench.either(30, 30)
    words = _words(bench, steps)
    run = bench.run_dir("stopped")

    def interrupted() -> tuple[int, str]:
        code, said = stopped(bench, run, words, 3)
        if code == EXIT_INTERRUPTED:
            bench.ftcli("train", "--resume", str(run), "--json")
        return code, said

    whole = [word for word in words if word not in bench.hardware]
    (code, said), (straight, _) = bench.together([interrupted, partial(bench.train, "straight", *whole)])
    found.figures["exit_code"] = code
    found.expect(code == EXIT_INTERRUPTED, f"a stopped run ends with {EXIT_INTERRUPTED}, not {code}: {said[-500:]}")
    found.expect("resume with" in said, "a stopped run says how to resume it")
    if code != EXIT_INTERRUPTED:
        return
    resumed, uninterrupted = ([line["loss"] for line in lines_of(each)] for each in (run, straight))
    found.expect(len(resumed) == steps, f"the resumed run has all {steps} steps")
    differences = [abs(one - other) for one, other in zip(resumed, uninterrupted, strict=False)]
    found.figures |= {
        "steps": len(resumed),
        "loss_difference": max(differences),
        "weights_difference": largest_difference(run / "model", straight / "model"),
    }
    found.expect(max(differences) <= _EQUAL_LOSS, f"the losses differ by at most {_EQUAL_LOSS:g}")
    if not bench.on_card:  # where the kernels add in one order
        found.expect(found.figures["weights_difference"] == 0, "the weights are the same bit for bit")


def largest_difference(one: Path, other: Path) -> float:
    """The largest difference between the weights of two adapters."""
    from safetensors.torch import load_file

    name = "adapter_model.safetensors"
    first, second = load_file(one / name), load_file(other / name)
    return max(float((first[key].float() - second[key].float()).abs().max()) for key in first)


def streams(bench: Bench, found: Findings) -> None:
    """Rows that stream, and packed ones, go on from a checkpoint."""
    ways = {"streaming": ["data.streaming=true"], "packed": ["method.packing=true", "method.packing_strategy=bfd"]}

    def longer(name: str) -> dict[str, Any]:
        words = [word for word in _words(bench, 4) if word not in bench.hardware]
        run, _ = bench.train(f"streams-{name}", *words, *ways[name])
        result: dict[str, Any] = bench.ftcli("train", "--resume", str(run), "train.max_steps=8", "--json").data()
        return result

    for name, result in zip(ways, bench.together([partial(longer, name) for name in ways]), strict=True):
        tokens = result["ledger"]["train"]["trained_tokens"]
        found.figures[name] = {"steps": result["steps"], "trained_tokens": tokens}
        found.expect(result["steps"] == 8, f"{name}: the resumed run comes to its end")
        found.expect(tokens > 0, f"{name}: tokens were trained")
