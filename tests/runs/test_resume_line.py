"""The line that resumes a run can be pasted: it has the flags and places that no folder may give."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.build import gate
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs.resume_line import VARIABLE, remember, resume_with


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")


def test_words_are_quoted_and_forgotten_with_the_next_command() -> None:
    remember(["--config-dir", "my groups", "--allow-endpoint"])
    assert resume_with(Path("runs/a b")) == (
        "resume with: ftcli train --resume 'runs/a b' --config-dir 'my groups' --allow-endpoint"
    )
    remember([])
    assert resume_with(Path("r")) == "resume with: ftcli train --resume r"


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ((), []),
        (("method=ppo", "method.judge={type: openai, model: m}"), ["--allow-endpoint"]),
        (("method=sft", "train.push_to_hub=true", "train.hub_strategy=end"), ["--push-to-hub"]),
    ],
)
def test_a_run_needs_again_what_its_file_may_not_grant(words: tuple[str, ...], flags: list[str]) -> None:
    assert gate.flags_needed(spec_of(Request(overrides=("hardware=cpu", *words)))) == flags
