"""The tables of what each shipped model takes have every model, and say what the planner and the checks say now."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import model_needs, model_uses
from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.models.modules import modules
from ftcli.models.shape import Shape
from ftcli.peft_methods.experts import reach
from tools import needs_tables
from tools.result_tables import result

FOUND = {each["name"]: each for each in result("model_needs", "python -m benchmarks.model_needs --save")["models"]}
USES = {each["name"]: each for each in result("model_uses", "python -m benchmarks.model_uses --save")["models"]}
USES_AGAIN = "run: python -m benchmarks.model_uses --save"
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


def test_every_shipped_model_stands_with_what_is_known_of_it_now():
    assert {*USES} == {*model_needs.models()}, USES_AGAIN
    assert [name for name in USES if USES[name] != model_uses.uses(name)] == [], USES_AGAIN


def test_models_are_known_to_have_a_template_by_those_who_took_it_from_them():
    named = model_uses.trl_models()
    assert named["qwen3_8"][0] == "Qwen/Qwen3.8-27B"
    assert model_uses.templates_of("qwen3.8-27b", "Qwen/Qwen3.8-27B") == ["qwen3_8"]
    assert model_uses.templates_of("gemma-3-1b", "google/gemma-3-1b-it") == ["gemma3"]  # TRL: google/gemma-3-*
    assert model_uses.templates_of("qwen-4b", "Qwen/Qwen3-4B") == ["qwen3"]  # ftcli advise
    assert model_uses.templates_of("mine", "anna/gemma-3-1b-it") == []
    assert not [name for name in USES if USES[name]["templates"] and name.endswith("-base")]


# Those whose modules are known without a worker, with and without experts.
@pytest.mark.parametrize("name", ["deepseek-v2-lite", "gpt-oss", "qwen", "smollm-135m"])
def test_experts_are_told_of_models_whose_lora_reaches_parameters_which_vllm_does_not_serve(name: str):
    run = run_of(Request(overrides=("method=sft", "peft=lora", f"model={name}", model_needs.LARGE)))
    reached = reach(modules(run.shape), run.spec.peft, renamed=False) if isinstance(run.shape, Shape) else None
    assert USES[name]["experts"] == bool(reached and reached.target_parameters)


def test_the_table_has_each_model_once_and_leaves_open_what_no_one_names():
    told = needs_tables.uses()
    rows = [[cell.strip() for cell in line.split(" | ")] for line in told.splitlines()[2:]]
    names = [name.strip("| `") for row in rows for name in row[0].split(",")]
    assert sorted(names) == sorted(USES)
    [plain] = [row for row in rows if "`mistral`" in row[0]]
    assert plain[1:6] == ["?"] * 5
    [known] = [row for row in rows if "`qwen`" in row[0]]
    assert known[1:6] == ["`qwen3`", "marks of TRL's training version", "right, unrolled", "right, unrolled", "chatml"]
