"""Mistakes in the group `data`: each told at its own line, with the nearest name or the remedy, before a run starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.settings.groups import SetSettings


@pytest.fixture(autouse=True)
def _rows(here):
    Path("a.jsonl").write_text('{"text": "one", "user": 1}\n', encoding="utf-8")
    Path("b.jsonl").write_text('{"instruction": "c", "output": "d", "user": 2}\n', encoding="utf-8")


def recipe(*lines: str, name: str = "r.yaml") -> str:
    """A recipe whose first line below `data:` is line 3."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("\n".join(["ftcli: 1", "data:", *(f"  {line}" for line in lines), ""]), encoding="utf-8")
    return f"recipe={name}"


def mix_of(spec: Any) -> dict[str, Any]:
    assert spec.data.mix is not None
    return dict(spec.data.mix)


# --- the mix ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "where", "what", "fix"),
    [
        (["mix:", "  a: {path: a.jsonl, share_off_set: 0.5}"], 4,
         "data.mix.a.share_off_set is not a setting of a data set", "did you mean data.mix.a.share_of_set?"),
        (["mix:", "  a:", "    path: a.jsonl", "    rowz: 5"], 6, "data.mix.a.rowz", "did you mean data.mix.a.rows?"),
        (["mix:", "  a: {path: a.jsonl, rows: many}"], 4, "data.mix.a.rows", ""),
        (["mix:", "  a: {path: a.jsonl, rows: 0}"], 4, "data.mix.a.rows", ""),
        (["mix:", "  a: {path: a.jsonl, share_of_set: 1.5}"], 4, "data.mix.a.share_of_set", ""),
        (["mix:", "  a: {path: a.jsonl, share_of_mix: 0}"], 4, "data.mix.a.share_of_mix", ""),
        (["mix:", "  a: {path: a.jsonl, repeat: 0}"], 4, "data.mix.a.repeat", ""),
        (["mix:", "  a: {path: a.jsonl}", "  b: a.jsonl"], 5,
         "data.mix.b is 'a.jsonl', not a mapping of settings", "data.mix.b.path="),
        (["mix:", "  a: {rows: 1}"], 4, "data.mix.a has no path", "data.mix.a.path=FILE"),
        (["mix:", "  a: {path: a.jsonl, rows: 1, share_of_set: 0.5}"], 4, "both rows and share_of_set", "keep one"),
        (["mix: {}"], 3, "data.mix names no set", "data.mix="),
        (["mix:", "  a: {path: a.jsonl, share_of_mix: 0.7}", "  b: {path: b.jsonl, share_of_mix: 0.6}"], 3,
         "add up to 1.3, not 1", "leave it out for one set"),
        (["mix:", "  a: {path: a.jsonl, share_of_mix: 0.2}", "  b: {path: b.jsonl, share_of_mix: 0.6}"], 3,
         "add up to 0.8, not 1", "leave it out for one set"),
        (["mix:", "  a: {path: a.jsonl, share_of_mix: 1}", "  b: {path: b.jsonl}"], 3,
         "leaves nothing for the others", "lower them"),
        (["path: a.jsonl", "mix:", "  a: {path: a.jsonl}"], 3, "data.path and data.mix are both set", "keep one"),
        (["format: text", "mix:", "  a: {path: a.jsonl}"], 3,
         "data.format does not apply to the sets", "data.mix.NAME"),
        (["mix:", "  a: {path: a.jsonl, roles: {bot: asistant}}"], 4, "data.mix.a.roles.bot=asistant is not a role",
         "use system, user, assistant or tool"),
        (["mix:", "  a: {path: a.jsonl, format: alpacca}"], 4, "alpacca is not a data format", "alpaca"),
        (["mix:", "  a: {path: gone.jsonl}"], 4, "gone.jsonl does not exist", ""),
        (["mix:", "  a: {path: a.jsonl, columns: {text: txt}}"], 4, "has no column 'txt' to map", "text"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_mix_is_told_at_its_line(problems, lines, where, what, fix):
    told = problems(recipe(*lines))
    [problem] = [each for each in told if what in each]
    place, _, remedy = problem.partition("\n")
    assert fix in remedy
    if "to map" not in what:  # told of the row itself
        assert place.startswith(f"r.yaml:{where}  ")


def test_all_mistakes_of_a_mix_are_told_at_once(problems):
    told = problems(recipe("mix:", "  a: {path: a.jsonl, x: 1, rows: -1}", "  b: {rows: 1, share_of_set: 0.1}"))
    assert len(told) == 4


def test_every_setting_of_a_set_is_one_that_the_mix_takes(problems):
    # A setting that were added to SetSettings and not understood here would be told as unknown.
    assert set(SetSettings.__dataclass_fields__) == {
        "path", "revision", "subset", "split", "format", "delimiter", "columns", "roles", "margin_column",
        "trained_turns", "template", "share_of_set", "rows", "repeat", "share_of_mix",
    }  # fmt: skip


def test_a_mix_may_be_written_on_the_command_line(here):
    spec = spec_of(Request(overrides=("data.mix={a: {path: a.jsonl}, b: {path: b.jsonl, share_of_mix: 0.5}}",)))
    assert [settings["path"] for settings in mix_of(spec).values()] == [str(here / "a.jsonl"), str(here / "b.jsonl")]
    assert mix_of(spec)["b"]["share_of_mix"] == 0.5


# --- paths of a recipe ------------------------------------------------------------------------------------------------


def test_a_path_in_a_mix_is_relative_to_the_recipe(here):
    spec = spec_of(Request(overrides=(recipe("mix:", "  a: {path: a.jsonl}"),)))
    assert mix_of(spec)["a"]["path"] == str(here / "a.jsonl")
    Path("deep").mkdir()
    Path("deep/c.jsonl").write_text('{"text": "deep"}\n', encoding="utf-8")
    spec = spec_of(Request(overrides=(recipe("mix:", "  a: {path: c.jsonl}", name="deep/r.yaml"),)))
    assert mix_of(spec)["a"]["path"] == str(here / "deep" / "c.jsonl")


@pytest.mark.parametrize("path", ["../a.jsonl", "/etc/a.jsonl", "file:///etc/a.jsonl", "https://x.org/a.jsonl"])
@pytest.mark.parametrize("place", ["path: {}", "mix: {{a: {{path: '{}'}}}}"])
def test_a_recipe_leaves_its_folder_only_where_that_is_granted(problems, path, place):
    written = recipe(place.format(path), name="deep/r.yaml")
    [told] = problems(written)
    assert told.startswith("deep/r.yaml:3  data.")
    assert "points outside the recipe's folder" in told
    assert "--allow-path" in told
    granted = problems(written, grants=frozenset({"--allow-path"}))
    assert not any("points outside the recipe's folder" in each for each in granted)


def test_a_file_url_is_read_once_it_is_granted(here):
    written = recipe(f"path: file://{here}/a.jsonl", name="deep/r.yaml")
    spec = spec_of(Request(overrides=(written,), grants=frozenset({"--allow-path"})))
    assert spec.data.path == f"file://{here}/a.jsonl"


def test_a_set_of_the_hub_is_a_name_and_no_path(here):
    written = recipe("mix:", "  a: {path: someone/rows, revision: v1}", "  b: {path: b.jsonl}")
    spec = spec_of(Request(overrides=(written,)))
    assert (mix_of(spec)["a"]["path"], mix_of(spec)["b"]["path"]) == ("someone/rows", str(here / "b.jsonl"))
    assert spec_of(Request(overrides=(recipe("path: hub:someone/rows"),))).data.path == "hub:someone/rows"


def test_a_folder_of_the_recipes_own_comes_before_a_name_of_the_hub(here):
    Path("someone/rows").mkdir(parents=True)
    Path("someone/rows/x.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    spec = spec_of(Request(overrides=(recipe("path: someone/rows"),)))
    assert spec.data.path == str(here / "someone" / "rows")


# --- the rest of the group --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "what", "fix"),
    [
        (["path: a.jsonl", "roles: {bot: asistant}"], "data.roles.bot=asistant is not a role", "use system"),
        (["path: b.jsonl", "eval_group: usr", "eval_share: 0.1"], "have no column 'usr' to group by", "user"),
        (["path: a.jsonl", "eval_share: 0.5", "eval_path: a.jsonl"], "both set", "keep one"),
        (["path: a.jsonl", "streaming: true"], "cannot tell how many rows", "train.max_steps"),
        (["path: a.jsonl", "max_length_tokens: long"], "data.max_length_tokens", ""),
        (["path: a.jsonl", "overflow: cut"], "data.overflow", ""),
    ],
)
def test_other_mistakes_are_told_at_their_line(problems, lines, what, fix):
    [told] = [each for each in problems(recipe(*lines)) if what in each]
    assert told.startswith(("r.yaml:3", "r.yaml:4", "r.yaml:5"))
    assert fix in told


def test_a_stream_takes_only_what_it_can_know(problems):
    mixed = ["streaming: true", "mix:", "  a: {path: a.jsonl, rows: 1}", "  b: {path: b.jsonl, share_of_mix: 0.5}"]
    told = problems(recipe(*mixed), "train.max_steps=3")
    assert any(each.startswith("r.yaml:5  data.mix.a.rows needs the whole set") for each in told)
    assert any("set share_of_mix for every set" in each for each in told)
    sound = ["streaming: true", "mix:", *(f"  {name}: {{path: {name}.jsonl, share_of_mix: 0.5}}" for name in "ab")]
    assert problems(recipe(*sound), "train.max_steps=3") == []


def test_the_first_row_decides_whether_the_method_can_train_on_it(problems):
    Path("pairs.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}), encoding="utf-8")
    [told] = problems("data.path=pairs.jsonl")
    assert "this data set holds preference pairs" in told
    assert problems("data.path=pairs.jsonl", "method=dpo") == []


def test_a_wrong_set_beside_a_right_one_is_named(problems):
    Path("odd.jsonl").write_text('{"foo": 1}\n', encoding="utf-8")
    [told] = problems(recipe("mix:", "  a: {path: a.jsonl}", "  odd: {path: odd.jsonl}"))
    assert told.startswith("r.yaml:5  the columns match no supported format")


def test_errors_are_of_the_configuration(here):
    with pytest.raises(ConfigError) as caught:
        spec_of(Request(overrides=(recipe("mix: {a: {path: a.jsonl, rows: 1, share_of_set: 1}}"),)))
    assert caught.value.exit_code == 2


# --- settings without effect on the rows -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "line", "what"),
    [
        (["path: b.jsonl", "roles: {customer: user}"], 4, "data.roles names roles, but rows of format alpaca"),
        (["path: a.jsonl", "trained_turns: last"], 4, "data.trained_turns=last chooses among answers, but a row of"),
        (["path: a.jsonl", "trained_turns: unroll"], 4, "data.trained_turns=unroll trains each answer of a convers"),
        (["path: b.jsonl", "columns: {context: user}"], 4,
         "data.columns maps user to context, which format alpaca does not read"),
        (["mix:", "  b: {path: b.jsonl, roles: {customer: user}}"], 4, "data.mix.b.roles names roles"),
    ],
)  # fmt: skip
def test_a_setting_that_changes_nothing_in_such_rows_is_an_error(lines, line, what):
    with pytest.raises(ConfigError) as caught:
        spec_of(Request(overrides=(recipe(*lines), "method=sft", "model=tiny")))
    [problem] = caught.value.problems
    assert problem.what.startswith(what)
    assert problem.where == f"r.yaml:{line}"


TALK = [{"from": "customer", "value": "Tree?"}, {"from": "Agent", "value": "Leaf."}]


@pytest.mark.parametrize(
    ("roles", "name"),
    [("{customer: user, agent: assistant}", ""), ("{customer: user, agent: assistant, clerk: assistant}", "clerk"),
     ("{Customer: user, customer: user, agent: assistant}", "Customer")],
)  # fmt: skip
def test_a_role_that_no_turn_has_is_an_error(roles, name, problems):
    Path("talk.jsonl").write_text(json.dumps({"conversations": TALK}) + "\n", encoding="utf-8")
    found = problems(recipe("path: talk.jsonl", f"roles: {roles}"), "method=sft", "model=tiny")
    told = [f"data.roles names {name}, which no turn of the rows has" in each for each in found]
    assert told == [True] * bool(name)
    assert all("r.yaml:4" in each and "Agent, customer" in each for each in found)


def test_a_role_may_occur_in_the_held_out_rows_only(problems):
    Path("talk.jsonl").write_text(json.dumps({"conversations": TALK}) + "\n", encoding="utf-8")
    held_out = [{"from": "human", "value": "Tree?"}, {"from": "clerk", "value": "Leaf."}]
    Path("eval.jsonl").write_text(json.dumps({"conversations": held_out}) + "\n", encoding="utf-8")
    roles = "roles: {customer: user, agent: assistant, clerk: assistant}"
    assert problems(recipe("path: talk.jsonl", "eval_path: eval.jsonl", roles), "method=sft", "model=tiny") == []


def test_roles_of_a_set_that_is_not_here_are_left_to_the_run():
    spec = spec_of(Request(overrides=("data.path=nobody/has-this-set", "data.roles={customer: user}")))
    assert spec.data.roles == {"customer": "user"}
