"""The traces of a profiled run, which chrome://tracing and Perfetto read."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ftcli.runs.profiles.time_parts import PARTS, TRACE
from ftcli.worker.process.own_lines import say
from ftcli.worker.process.usage import FIRST_STEPS
from ftcli.worker.training.profiling.recorder import Recorder


def write_spans(file: Path, recorder: Recorder, rank: int) -> None:
    """Write the parts of a process as spans within each other, each with its step, in microseconds of the run."""
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": rank, "tid": 0, "args": {"name": f"process {rank}"}}
    ]
    for span in sorted(recorder.spans, key=lambda each: (each.start, -each.end)):
        lasts = {"ts": round(span.start * 1e6, 1), "dur": round((span.end - span.start) * 1e6, 1)}
        own = {"name": PARTS[span.part], "cat": span.part, "ph": "X", **lasts, "pid": rank, "tid": 0}
        events.append({**own, "args": {"step": span.step}})
    about = {"spans_left_out": recorder.left_out}
    staging = _staging(file)
    try:
        with gzip.open(staging, "wt", encoding="utf-8") as out:
            json.dump({"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}, out)
        os.replace(staging, file)
    finally:
        staging.unlink(missing_ok=True)


def _staging(file: Path) -> Path:
    return file.with_name(f".{os.getpid()}.{file.name}")


class Operations(TrainerCallback):
    """Traces the operations of some steps with torch's profiler, after the first ones or as late as there are steps."""

    def __init__(self, recorder: Recorder, file: Path, steps: int) -> None:
        self._recorder, self._file, self._steps = recorder, file, steps
        self._first = 0
        self._profiler: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Choose the steps."""
        left = state.max_steps - state.global_step
        self._first = state.global_step + min(FIRST_STEPS, max(0, left - self._steps))
        self._begin_at(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin or end with this step."""
        if self._profiler is not None and state.global_step >= self._first + self._steps:
            self.close()
        self._begin_at(state.global_step)

    def _begin_at(self, step: int) -> None:
        if step != self._first:
            return
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        with self._recorder.part(TRACE):
            self._profiler = torch.profiler.profile(activities=kinds)
            self._profiler.start()
        self._recorder.label = torch.profiler.record_function

    def close(self) -> None:
        """Write what was traced, if anything is."""
        if self._profiler is None:
            return
        profiler, self._profiler, self._recorder.label = self._profiler, None, None
        with self._recorder.part(TRACE):
            profiler.stop()
            staging = _staging(self._file)
            try:
                profiler.export_chrome_trace(str(staging))
                os.replace(staging, self._file)
            finally:
                staging.unlink(missing_ok=True)
        say(f"the operations of some steps are in {self._file.name}")
