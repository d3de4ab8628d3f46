"""Words that are no settings: what each is taken for, and when it is refused because it could be two things."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.config.compose import Request, compose
from ftcli.config.shorthand import understood
from ftcli.core.errors import ConfigError

ROW = json.dumps({"prompt": "Add 1 and 2.", "completion": "3"}) + "\n"


@pytest.fixture
def place(here) -> Path:
    """A folder with files of rows, a recipe, a model's folder and a folder of rows."""
    for name in ("a.jsonl", "b.jsonl", "rows=1.jsonl", "läuft (1), a=b.jsonl", "part/1.jsonl"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(ROW, encoding="utf-8")
    Path("support.yaml").write_text("ftcli: 1\n")
    Path("weights").mkdir()
    Path("weights/config.json").write_text("{}")
    return here


def overrides(*words: str) -> tuple[str, ...]:
    return understood(words).overrides


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["a.jsonl"], ["data.path=a.jsonl"]),
        (["a.jsonl", "b.jsonl"], ["data.path=[a.jsonl,b.jsonl]"]),
        (["a.jsonl", "seed=1", "b.jsonl"], ["data.path=[a.jsonl,b.jsonl]", "seed=1"]),
        (["a.jsonl,b.jsonl"], ["data.path=[a.jsonl,b.jsonl]"]),
        (["*.jsonl"], ["data.path=*.jsonl"]),
        (["part"], ["data.path=part"]),
        (["rows=1.jsonl"], ["data.path=rows=1.jsonl"]),
        (["läuft (1), a=b.jsonl"], ["data.path=läuft (1), a=b.jsonl"]),
        (["missing.jsonl"], ["data.path=missing.jsonl"]),
        (["https://example.org/rows.jsonl"], ["data.path=https://example.org/rows.jsonl"]),
        (["hub:squad"], ["data.path=hub:squad"]),
        (["support.yaml"], ["recipe=support.yaml"]),
        (["missing.yaml"], ["recipe=missing.yaml"]),
        (["demo"], ["recipe=demo"]),
        (["dpo"], ["method=dpo"]),
        (["qlora", "llama"], ["peft=qlora", "model=llama"]),
        (["weights"], ["model.name_or_path=weights"]),
        (["./weights"], ["model.name_or_path=./weights"]),
        (["model=Qwen/Qwen3-8B"], ["model.name_or_path=Qwen/Qwen3-8B"]),
        (["model=./weights"], ["model.name_or_path=./weights"]),
        (["model=weights"], ["model.name_or_path=weights"]),
        (["model=qwen"], ["model=qwen"]),
        (["data=a.jsonl"], ["data.path=a.jsonl"]),
        (["data=a.jsonl,b.jsonl"], ["data.path=a.jsonl,b.jsonl"]),
        (["data=org/name"], ["data.path=org/name"]),
        (["data=tiny"], ["data=tiny"]),
        (["foo", "train.foo=1"], ["foo", "train.foo=1"]),
        (["~train.warmup_steps", "+seed=1"], ["~train.warmup_steps", "+seed=1"]),
    ],
)  # fmt: skip
def test_a_word_is_taken_for_what_it_names(place, words, meant):
    assert list(overrides(*words)) == meant


def test_what_was_understood_is_said_and_settings_are_not_repeated(place):
    said = understood(["a.jsonl", "model=./weights", "seed=1", "demo"]).notes
    assert set(said) == {
        "data.path=a.jsonl",
        "model=./weights is model.name_or_path=./weights",
        "demo is recipe=demo",
    }


@pytest.mark.parametrize(
    ("word", "both"),
    [
        ("demo", ("data.path=demo", "recipe=demo")),
        ("tiny", ("model=tiny", "data=tiny")),
        ("seed=3.jsonl", ("+seed=3.jsonl", "./seed=3.jsonl")),
        ("Qwen/Qwen3-8B", ("model.name_or_path=Qwen/Qwen3-8B", "data.path=Qwen/Qwen3-8B")),
        ("run", ("--resume run", "--from run", "model=run")),
    ],
)
def test_a_word_that_can_be_two_things_is_refused_with_both(place, word, both):
    Path("demo").mkdir()
    Path("run").mkdir()
    Path("run/spec.json").write_text("{}")
    Path("seed=3.jsonl").write_text(ROW)
    with pytest.raises(ConfigError) as refused:
        overrides(word)
    [problem] = refused.value.problems
    assert problem.where == word
    assert all(each in problem.fix for each in both)


def test_both_spellings_of_an_ambiguous_word_work(place):
    Path("seed=3.jsonl").write_text(ROW)
    assert overrides("./seed=3.jsonl") == ("data.path=./seed=3.jsonl",)
    assert overrides("+seed=3.jsonl") == ("+seed=3.jsonl",)


def test_a_folder_named_like_a_setting_stays_a_setting(place):
    Path("seed=1").mkdir()
    assert overrides("seed=1") == ("seed=1",)


def test_a_choice_with_a_namesake_here_is_taken_and_said(place):
    Path("llama").mkdir()
    Path("llama/config.json").write_text("{}")
    known = understood(["model=llama"])
    assert known.overrides == ("model=llama",)
    assert known.notes == ("model=llama is the choice of that name; the folder here is model=./llama",)


@pytest.mark.parametrize("more", ["data.path=b.jsonl", "data=b.jsonl", "data.mix={b: {path: b.jsonl}}"])
def test_rows_named_by_a_word_and_by_a_setting_are_refused(place, more):
    with pytest.raises(ConfigError) as refused:
        overrides("a.jsonl", more)
    assert "data.mix" in refused.value.problems[0].fix


@pytest.mark.parametrize(
    ("first", "second", "fault"),
    [
        ("recipe=demo", "recipe=dpo-lora-8b", "is a second recipe"),
        ("recipe=demo", "recipe=demo", "is a second recipe"),
        ("method=sft", "method=dpo", "is a second choice of method"),
        ("data.path=a.jsonl", "data.path=b.jsonl", "names rows a second time"),
        ("data.eval_path=a.jsonl", "data.eval_path=b.jsonl", "names rows a second time"),
    ],
)
def test_of_two_recipes_choices_or_places_of_rows_none_is_dropped(place, problems, first, second, fault):
    [problem] = problems(first, second)
    assert problem.startswith(f"{second}  {fault}")
    assert first in problem


def test_of_a_plain_setting_the_last_value_counts(place):
    composed = compose(Request(overrides=("seed=1", "seed=2")))
    assert composed.tree["seed"] == 2


@pytest.mark.parametrize(
    "written", ["[a.jsonl, b.jsonl]", "a.jsonl,b.jsonl", "'[a.jsonl, b.jsonl]'", "\n    - a.jsonl\n    - b.jsonl"]
)
def test_a_recipe_lists_files_beside_itself(place, written):
    (place / "set").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (place / name).rename(place / "set" / name)
    (place / "set" / "r.yaml").write_text(f"ftcli: 1\ndata:\n  path: {written}\n")
    tree = compose(Request(overrides=("recipe=set/r.yaml",))).tree
    assert tree["data"]["path"] == [str(place / "set" / name) for name in ("a.jsonl", "b.jsonl")]


def test_a_recipe_lists_no_file_outside_its_folder(place, problems):
    (place / "set").mkdir()
    (place / "set" / "r.yaml").write_text("ftcli: 1\ndata:\n  path: [../a.jsonl, ../b.jsonl]\n")
    assert "points outside the recipe's folder" in problems("recipe=set/r.yaml")[0]


def test_a_built_in_set_is_no_file_of_a_list(place, problems):
    [problem] = problems("data.path=[a.jsonl,builtin:tiny]")
    assert "data.mix=" in problem
