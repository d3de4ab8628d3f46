"""`ftcli generate --to FILE` of the built-in model, killed after its first batches and gone on with."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.ranks import TIMEOUT_SECONDS
from tests.whole.conftest import Start, Train

PROMPTS = [f"What is {n}+{n}?" for n in range(10)]
WORDS = (
    "generate", "builtin:tiny", "--file", "prompts.txt", "--batch-size", "2", "--temperature", "1",
    "--max-new-tokens", "8",
)  # fmt: skip


@pytest.mark.slow
def test_answers_that_were_killed_go_on_as_if_nobody_had(tmp_path: Path, ftcli_run: Train, ftcli_start: Start) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    with ftcli_start(*WORDS, "--to", "killed.jsonl", cwd=tmp_path) as command:
        file, until = tmp_path / "killed.jsonl", time.monotonic() + TIMEOUT_SECONDS
        while not (file.exists() and file.stat().st_size) and time.monotonic() < until:
            assert command.poll() is None
            time.sleep(0.01)
        psutil.Process(command.pid).send_signal(signal.SIGKILL)
        command.wait(TIMEOUT_SECONDS)
    ftcli_run(*WORDS, "--to", "killed.jsonl", cwd=tmp_path)
    ftcli_run(*WORDS, "--to", "whole.jsonl", cwd=tmp_path)
    whole = (tmp_path / "whole.jsonl").read_text(encoding="utf-8")
    assert (tmp_path / "killed.jsonl").read_text(encoding="utf-8") == whole
    assert [json.loads(line)["prompt"] for line in whole.splitlines()] == PROMPTS
    assert sorted(each.name for each in tmp_path.iterdir()) == ["killed.jsonl", "prompts.txt", "whole.jsonl"]
    again = ftcli_run(*WORDS, "--to", "whole.jsonl", cwd=tmp_path, expect=2)
    assert "already exists" in again.stderr


def test_what_is_no_text_is_refused_and_one_of_two_places_for_prompts_is_not_left_out(
    tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "prompts.txt").write_text("Hello.\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "blank.txt").write_text(" \n\n", encoding="utf-8")
    for words, told in (
        (("Hello.", "--file", "prompts.txt"), "--file  has no effect beside prompts"),
        (("Hello.", "caf\udce9"), "prompt 2  is not UTF-8"),
        (("Hello.", "--system", "caf\udce9"), "--system  is not UTF-8"),
        (("--file", "latin.txt"), "--file latin.txt  cannot be read"),
        (("--file", "none.txt"), "--file none.txt  cannot be read: No such file"),
        (("--file", "."), "--file .  cannot be read: Is a directory"),
        (("--file", "blank.txt"), "there is no prompt"),
    ):
        code, _, error = typed("generate", "builtin:tiny", *words)
        assert (code, told in error, "fix: " in error) == (2, True, True), error
