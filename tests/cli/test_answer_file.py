"""The file of `ftcli generate --to`: begun, gone on with after its whole batches, finished, and never another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcli.cli.jobs.answer_file import AnswerFile
from ftcli.core.errors import ConfigError

PROMPTS = ["a", "b", "c", "d", "e"]
HOW = {"model": "builtin:tiny", "temperature": 0.0, "batch_size": 2}


def target(folder: Path, how: dict[str, Any] = HOW, prompts: list[str] = PROMPTS) -> AnswerFile:
    return AnswerFile(folder / "new" / "answers.jsonl", how, prompts)


def answered(prompts: list[str]) -> list[dict[str, str]]:
    return [{"prompt": each, "answer": each.upper()} for each in prompts]


def interrupted(folder: Path, lines: int, rest: str = "") -> AnswerFile:
    """A file that a kill left with so many lines, and a part of the next."""
    made = target(folder)
    assert made.open(2) == 0

    def killed() -> Any:
        yield from answered(PROMPTS[:lines])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.write(killed())
    with made.file.open("a", encoding="utf-8") as file:
        file.write(rest)
    return made


@pytest.mark.parametrize(("lines", "rest", "kept"), [(0, "", 0), (1, '{"pro', 0), (3, "", 2), (4, '{"prompt": "e"', 4)])
def test_it_goes_on_after_its_whole_batches(lines: int, rest: str, kept: int, tmp_path: Path):
    made = interrupted(tmp_path, lines, rest)
    assert target(tmp_path).open(2) == kept
    assert len(made.file.read_text(encoding="utf-8").splitlines()) == kept
    made.write(answered(PROMPTS[kept:]))
    assert [json.loads(line) for line in made.file.read_text(encoding="utf-8").splitlines()] == answered(PROMPTS)
    assert not made.begun.exists()
    with pytest.raises(ConfigError, match="already exists"):
        target(tmp_path).open(2)


@pytest.mark.parametrize(
    ("how", "prompts", "what"),
    [
        ({**HOW, "temperature": 1.0}, PROMPTS, "other temperature"),
        ({**HOW, "batch_size": 4}, PROMPTS, "other batch_size"),
        (HOW, [*PROMPTS, "f"], "other prompts"),
    ],
)
def test_a_file_that_was_begun_otherwise_is_left_alone(
    how: dict[str, Any], prompts: list[str], what: str, tmp_path: Path
):
    made = interrupted(tmp_path, 3)
    before = made.file.read_bytes()
    with pytest.raises(ConfigError, match=what):
        target(tmp_path, how, prompts).open(2)
    made.begun.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be gone on with"):
        target(tmp_path).open(2)
    assert made.file.read_bytes() == before
