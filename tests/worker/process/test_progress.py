"""The lines of metrics.jsonl as they are written during training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ftcli.runs import rundir
from ftcli.runs.metrics import read_metrics
from ftcli.worker.process import progress
from ftcli.worker.process.progress import Progress


def test_steps_that_learn_from_the_same_answers_again_take_their_time_from_the_next_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=5, epoch=0.0, num_input_tokens_seen=0)
    writer = Progress(tmp_path)
    writer.on_train_begin(None, state, None)
    # Answers of 600 tokens take two seconds with their step, each step that reuses them one, an evaluation ten.
    for step, (seconds, tokens) in enumerate([(2.0, 600), (1.0, 0), (1.0, 0), (2.0, 600), (1.0, 0)], start=1):
        now[0] += seconds
        state.global_step, state.num_input_tokens_seen = step, state.num_input_tokens_seen + tokens
        writer.on_log(None, state, None, {"loss": 1.0})
        now[0] += 10.0
        writer.on_log(None, state, None, {"eval_loss": 1.0})
    writer.on_train_end(None, state, None)
    lines = [line for line in read_metrics(tmp_path / rundir.METRICS) if "loss" in line]
    assert [line.get("tokens_per_second") for line in lines] == [300.0, None, None, 600 / (1 + 1 + 2), None]
    assert [line["tokens"] for line in lines] == [600, 600, 600, 1200, 1200]
    assert " 0 tokens/s" not in capsys.readouterr().err
