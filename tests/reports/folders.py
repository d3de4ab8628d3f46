"""Folders of runs that nobody trained: what a report reads of them is written here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs import rundir

HOSTILE = "</script><img src=x onerror=document.title='taken'>\u202e=1+1"
"""A text that wants to be more than text."""


def run_folder(run: Path, *words: str, steps: int = 40, done: bool = True, pace: float = 10, **measures: Any) -> Path:
    """A run of some steps with falling losses.

    Args:
        words: overrides of its spec.
        pace: steps in which the loss falls to a third.
        measures: more measures of its last line.
    """
    run.mkdir(parents=True)
    spec = spec_of(Request(overrides=("peft=lora", *words, f"run.dir={run}")))
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    (run / rundir.COMMAND).write_text("#!/bin/sh\nftcli train peft=lora\n", encoding="utf-8")
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        lines.append({
            "schema": 1, "step": step, "loss": 2 + math.exp(-step / pace), "learning_rate": 1e-4, "grad_norm": 1.0,
            "tokens_per_second": 900.0, "elapsed_seconds": float(step), "tokens": 100 * step, "epoch": step / 20,
        })  # fmt: skip
        if step % 10 == 0:
            lines.append(
                {"schema": 1, "step": step, "eval_loss": 2.2 + math.exp(-step / pace), "elapsed_seconds": step}
            )
    lines[-1:] = [{**line, **measures} for line in lines[-1:]]
    (run / rundir.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    keep_rows(run)
    if done:
        rundir.write_json(run / rundir.RESULT, result(steps))
    return run


def keep_rows(run: Path, text: str = "Thank you") -> None:
    """Write the rows and answers that a run keeps, with a text in each place where one stands."""
    tokens = [["<|user|>", False, True], [" Hello", False, False], [text, True, False], [".", 0.5, False]]
    one = {"name": text, "tokens": tokens, "left_out": 3}
    rows = [{"sequences": [one], "tokens": 7, "trained": 2}]
    rundir.write_json(run / rundir.SHOWN, {"schema": 1, "rows": rows})
    asked = {"where": "rows.jsonl:1", "prompt": f"<|user|> {text}?", "right": text}
    before, after = {**asked, "answer": "No.", "reward": 0.25}, {**asked, "answer": f"Yes. {text}", "reward": 1.0}
    rundir.write_json(run / rundir.ANSWERS, {"schema": 1, "before": [before], "after": [after]})


def result(steps: int) -> dict[str, Any]:
    """The content of result.json."""
    return {
        "schema": 1, "method": "sft", "model": "builtin:tiny", "peft": "lora", "steps": steps, "seconds": 75.0,
        "tokens_trained": 1500, "loss_first": 3.0, "loss_last": 2.0, "eval_loss": {"before": 3.0, "after": 2.2},
        "score": None, "warnings": [{"first_step": 3, "last_step": 5, "done": False, "message": "the loss leapt"}],
        "trackers": {"tensorboard": {"last_step": steps}, "wandb": {"last_step": 1, "failed": "no wand"}},
    }  # fmt: skip
