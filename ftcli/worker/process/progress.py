"""The progress of a run, for people on stderr and for programs in metrics.jsonl.

metrics.jsonl reads as one run however often it was resumed: lines after the step that a run resumes from are dropped,
and its clock continues from the last line kept.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TextIO

from transformers import TrainerCallback

from ftcli.core.errors import DiskError, Problem
from ftcli.runs import rundir
from ftcli.runs.metrics import read_metrics
from ftcli.worker.process import own_lines
from ftcli.worker.process.usage import FIRST_STEPS, peak_memory

OVER = "loss_over"
"""Over how many tokens, pairs or answers the loss of a line is a mean."""
# A resumed trainer counts these from zero again, or our own fields replace them.
_OURS = frozenset({"loss", "epoch", "num_tokens", "num_input_tokens_seen", "total_flos"})


def mean_loss(lines: list[dict[str, Any]]) -> float | None:
    """The mean training loss of the whole run; a line's loss is the mean since the previous line.

    Over tokens, pairs or answers, where each line says over how many its loss is a mean; else over steps.
    """
    losses = [line for line in lines if line.get("loss") is not None]
    ends = [0, *(line["step"] for line in losses)]
    over: list[float] = [line.get(OVER) or 0 for line in losses]
    if not all(over):
        over = [step - before for before, step in pairwise(ends)]
    total = sum(over)
    return sum(line["loss"] * number for line, number in zip(losses, over, strict=True)) / total if total else None


class Listener(Protocol):
    """Who is told the lines of metrics.jsonl."""

    def begin(self, kept: Sequence[Mapping[str, Any]], step: int) -> None:
        """The lines that a resumed run keeps, and the step from which it goes on."""

    def log(self, line: Mapping[str, Any]) -> None:
        """A line that was written."""

    def close(self) -> None:
        """That no line follows."""


class Progress(TrainerCallback):
    """Writes metrics.jsonl and the progress line; only in the first process, only while training."""

    def __init__(self, run_dir: Path, listener: Listener | None = None) -> None:
        self._path, self._listener = run_dir / rundir.METRICS, listener
        self._file: TextIO | None = None
        self._started = self._last_time = 0.0
        self._seconds_since_tokens = 0.0
        self._pace = (0.0, 0)
        self._elapsed_before = 0.0
        self._first_step = self._last_tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Opens the file, after the lines that a resumed run keeps."""
        if not state.is_world_process_zero:
            return
        # From here on the run counts as unfinished: everything that could refuse the resume has already run.
        (self._path.parent / rundir.RESULT).unlink(missing_ok=True)
        kept = [line for line in read_metrics(self._path) if line["step"] <= state.global_step]
        rundir.write_atomically(self._path, "".join(_text(line) for line in kept if state.global_step))
        self._elapsed_before = kept[-1]["elapsed_seconds"] if kept and state.global_step else 0.0
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115, lives as long as training
        if self._listener is not None:
            self._listener.begin(kept if state.global_step else [], state.global_step)
        self._started = self._last_time = time.monotonic()
        self._first_step, self._last_tokens = state.global_step, state.num_input_tokens_seen
        self._pace = (self._started, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Also logs the first step, the last and every step that is saved, so that a broken loss is never saved."""
        control.should_log |= control.should_save or state.global_step in (1, state.max_steps)
        own_lines.count(state.global_step, state.max_steps, "steps")
        if state.global_step - self._first_step == FIRST_STEPS:
            self._pace = (time.monotonic(), state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Does the same for checkpoints at the end of an epoch."""
        control.should_log |= control.should_save

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Writes one line of metrics, and one line of progress."""
        if self._file is None or not logs or not ("loss" in logs or any(key.startswith("eval_") for key in logs)):
            return
        if not self._path.is_file():  # and no folder is made anew around half a run
            what, fix = "is gone, with what the run wrote there", "put it back, then resume"
            raise DiskError(Problem(str(self._path.parent), what, fix))
        now = time.monotonic()
        line: dict[str, Any] = {
            "schema": rundir.SCHEMAS[rundir.METRICS],
            "step": state.global_step,
            "epoch": round(state.epoch or 0.0, 4),
        }
        if "loss" in logs:
            line |= {"loss": logs["loss"], "tokens": state.num_input_tokens_seen}
            line |= self._speed(now - self._last_time, state.num_input_tokens_seen)
            line |= peak_memory()
        self._last_time = now
        line["elapsed_seconds"] = round(self._elapsed_before + now - self._started, 3)
        # JSON has no word for what is not finite.
        line |= {
            name: value if math.isfinite(value) else None for name, value in logs.items() if _is_metric(name, value)
        }
        self._file.write(_text(line))
        self._file.flush()
        if self._listener is not None:
            self._listener.log(line)
        self._show(line, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Closes the file."""
        self.close()

    def close(self) -> None:
        """Closes the file, however training ended."""
        if self._file is not None:
            self._file.close()
            self._file = None
            if self._listener is not None:
                self._listener.close()

    def _speed(self, seconds: float, tokens: int) -> dict[str, float]:
        """The rate since tokens were counted last, after so many further seconds.

        Reinforcement learning counts tokens as answers are generated, and none in the steps that learn from the same
        answers again: these take their time from the next rate, instead of having one of 0.
        """
        self._seconds_since_tokens += seconds
        counted = tokens - self._last_tokens
        if not counted:
            return {}
        rate = round(counted / max(self._seconds_since_tokens, 1e-9), 1)
        self._last_tokens, self._seconds_since_tokens = tokens, 0.0
        return {"tokens_per_second": rate}

    def _show(self, line: dict[str, Any], state: Any) -> None:
        parts = [f"step {line['step']}/{state.max_steps}"]
        named = (("loss", "loss"), ("eval_loss", "held-out loss"))
        parts += [f"{name} {line[key]:.4f}" for key, name in named if key in line]
        if "tokens_per_second" in line:
            parts.append(f"{line['tokens_per_second']:,.0f} tokens/s")
        since, step = self._pace
        done, left = state.global_step - step, None
        if done and state.max_steps > state.global_step:
            left = (time.monotonic() - since) / done * (state.max_steps - state.global_step)
            parts.append(f"{clock(left)} left")
        text = "  ".join(parts)
        if own_lines.takes_records():
            own_lines.step(line, state.max_steps, left, text)
        else:
            own_lines.say(text)


def clock(seconds: float) -> str:
    """A duration as 59s, 12m30s or 3h05m."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _is_metric(key: str, value: Any) -> bool:
    if key in _OURS or key.startswith("train_") or key.endswith(("_num_tokens", "_num_input_tokens_seen")):
        return False
    return isinstance(value, int | float)


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line) + "\n"
