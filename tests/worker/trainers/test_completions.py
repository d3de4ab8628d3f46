"""The record of sampled answers of a run, and what becomes of it when the run is killed and resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

from ftcli.worker.trainers.rl.rollouts import Completions

TOKENIZER = SimpleNamespace(batch_decode=lambda batch, **_: [f"yes\u2028{len(ids)}" for ids in batch])
SAMPLED = SimpleNamespace(answer_ids=[1, 2], row=json.dumps({"prompt": "Is it?\u0085"}), ended=True)


def added(file: Path, steps: int) -> list[str]:
    record = Completions(file)
    for step in range(steps):
        record.add(step, [SAMPLED], TOKENIZER, [{"reward": 1.0}])
    return file.read_text(encoding="utf-8").split("\n")[:-1]


def test_a_resumed_run_keeps_the_lines_before_its_step_whatever_they_break_at(tmp_path: Path):
    file = tmp_path / "completions.jsonl"
    lines = added(file, 4)
    assert json.loads(lines[0])["answer"] == "yes\u20282"
    Completions(file).forget_after(2)
    assert file.read_text(encoding="utf-8") == "".join(f"{line}\n" for line in lines[:2])


def test_a_line_that_a_kill_cut_short_ends_what_is_kept(tmp_path: Path):
    file = tmp_path / "completions.jsonl"
    lines = added(file, 3)
    for rest in (lines[2][:20], lines[2], "", "[[", "7\n", "{}\n", "\0" * 40, "[" * 200_000 + "\n"):
        file.write_text("".join(f"{line}\n" for line in lines[:2]) + rest, encoding="utf-8")
        Completions(file).forget_after(9)
        assert file.read_text(encoding="utf-8") == "".join(f"{line}\n" for line in lines[:2])


def test_where_there_is_no_file_none_is_made_and_a_pipe_is_not_waited_for(tmp_path: Path):
    file = tmp_path / "completions.jsonl"
    Completions(file).forget_after(1)
    assert not file.exists()
    os.mkfifo(file)
    Completions(file).forget_after(1)
    assert file.read_bytes() == b""
