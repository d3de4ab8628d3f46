"""The plan of a stage whose rows an earlier one will make: built-in rows stand in, and nothing is said of them."""

from __future__ import annotations

import json
from pathlib import Path

from ftcli.cli import plan

LARGE = (
    "method=constitutional", "model=qwen-4b", "peft=lora", "stages.assistant.model=Qwen/Qwen3-4B",
    "stages.answers.data.path=builtin:redteam", "stages.sample.data.path=builtin:redteam",
)  # fmt: skip
OWN = "stages.helpful.data.path=rows.jsonl"


def warned(capsys, *words: str) -> dict[str, list[str]]:
    """The warnings of each stage that trains."""
    assert plan.run([*LARGE, *words, "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    return {each["stage"]: each["warnings"] for each in stages if "warnings" in each}


def test_rows_that_stand_in_for_those_to_come_are_not_told_to_be_set(here, capsys):
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 200, encoding="utf-8")
    found = warned(capsys, OWN)
    assert list(found) == ["helpful", "revised", "dpo"]
    assert [text for texts in found.values() for text in texts if "built-in" in text] == []


def test_built_in_rows_for_a_model_of_ones_own_are(here, capsys):
    told = warned(capsys, "stages.helpful.data.path=builtin:manners")["helpful"]
    assert "builtin:manners is a built-in demonstration set; set your own with data.path=FILE" in told
