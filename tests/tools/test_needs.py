"""The table of what each shipped model takes has every model, and says what the planner counts now."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import model_needs
from tools import needs_tables
from tools.result_tables import result

FOUND = {each["name"]: each for each in result("model_needs", "python -m benchmarks.model_needs --save")["models"]}
AGAIN = "run: python -m benchmarks.model_needs --save"


def test_every_shipped_model_stands_there_as_its_file_is_now():
    assert {*FOUND} == {*model_needs.models()}, AGAIN
    assert [name for name in FOUND if FOUND[name]["digest"] != model_needs.digest(name)] == [], AGAIN


# One of each kind that the planner knows without a worker: dense, with a head of its own, and a mixture of experts.
@pytest.mark.parametrize("name", ["qwen", "smollm-135m", "gemma", "llama-70b", "phi", "gpt-oss", "deepseek-v2-lite"])
def test_the_planner_counts_the_same_now(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where no measured architecture is
    assert model_needs.needs(name) == FOUND[name], AGAIN


def test_no_model_is_left_without_a_figure_for_all_its_weights_and_for_lora():
    for each in FOUND.values():
        assert isinstance(each["gib"]["all weights"], float), each
        assert isinstance(each["gib"]["LoRA"], float), each
        assert each["gib"]["LoRA"] < each["gib"]["all weights"], each
        assert each["parameters"], each


def test_a_card_is_named_only_where_a_tenth_of_it_is_left():
    # 0.9 of 24 is 21.6, of 80 is 72
    assert needs_tables.cell(21.6, {}) == "21.6, **24**"
    assert needs_tables.cell(21.7, {}) == "21.7, **48**"
    assert needs_tables.cell(72.1, {}) == "72.1, several"
    notes: dict[str, int] = {}
    assert [needs_tables.cell(text, notes) for text in ("a", "b", "a")] == [f"no<sup>{n}</sup>" for n in (1, 2, 1)]
