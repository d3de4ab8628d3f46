"""`data.template=none` where it has no effect, and runs from before the setting existed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcli.build.resolve import spec_of
from ftcli.build.resume import spec_from
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.models.templates.chat_template import renders
from ftcli.pipelines.pipeline_dir import load_request
from ftcli.runs import rundir
from ftcli.settings.groups import ModelSettings
from ftcli.settings.run_spec import RunSpec

PAIR = {"prompt": "a", "completion": "b"}
TURNS = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.fixture
def rows(here):
    def write(name: str, *given: dict[str, Any]) -> str:
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
        return name

    return write


def spec(*overrides: str) -> RunSpec:
    return spec_of(Request(overrides=overrides))


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        spec(*overrides)
    return [problem.what for problem in caught.value.problems]


def test_bare_text_is_chosen_for_text_pairs(rows):
    file = rows("rows.jsonl", PAIR)
    assert spec(f"data.path={file}").data.template == "auto"
    assert spec(f"data.path={file}", "data.template=none").data.template == "none"
    mixed = rows("mixed.jsonl", TURNS["messages"] and {"prompt": TURNS["messages"][:1], "completion": "b"}, PAIR)
    assert spec(f"data.path={mixed}", "data.template=none").data.template == "none"  # it decides for the second row


@pytest.mark.parametrize(
    ("row", "held"), [(TURNS, "turns, which only the chat template can"), ({"text": "a"}, "plain text, which no")]
)
def test_bare_text_is_refused_where_it_would_change_nothing(row, held, rows):
    file = rows("rows.jsonl", row)
    [what] = problems(f"data.path={file}", "data.template=none")
    assert f"data.template=none has no effect: it is for text pairs and prompts, and the rows are {held}" in what
    pairs = rows("pairs.jsonl", PAIR)
    mix = f"data.mix={{a: {{path: {file}, template: none}}, b: {{path: {pairs}, template: none}}}}"
    [what] = problems(mix, "data.path=null")
    assert what.startswith("data.mix.a.template=none has no effect")


def test_bare_text_is_refused_for_built_in_rows_and_by_a_method_that_renders_every_row(rows):
    assert "has no effect" in problems("data.template=none")[0]
    file = rows("rows.jsonl", PAIR)
    assert (
        "method=instruct renders every row" in problems(f"data.path={file}", "method=instruct", "data.template=none")[0]
    )
    assert problems(f"data.path={file}", "data.template=off") != []


def test_with_a_mix_the_setting_of_the_group_is_for_the_held_out_rows(rows):
    pairs = rows("pairs.jsonl", PAIR)
    words = [f"data.mix={{a: {{path: {pairs}}}}}", "data.path=null", "data.template=none"]
    assert "does not apply to the sets of data.mix" in problems(*words)[0]
    assert spec(*words, f"data.eval_path={pairs}").data.template == "none"


def without_template(raw: dict[str, Any]) -> dict[str, Any]:
    """A spec as it was written before the setting existed."""
    old = json.loads(json.dumps(raw))
    for data in (old["data"], old["tree"]["data"]):
        data.pop("template", None)
        for each in (data.get("mix") or {}).values():
            each.pop("template", None)
    return old


def test_a_run_from_before_the_setting_reads_its_text_bare_as_it_did(rows):
    new = spec(f"data.path={rows('rows.jsonl', PAIR)}")
    assert RunSpec.from_json(new.to_json()).data.template == "auto"
    old = RunSpec.from_json(json.dumps(without_template(json.loads(new.to_json()))))
    assert (old.data.template, old.tree["data"]["template"]) == ("none", "none")
    run = Path("old")
    run.mkdir()
    (run / rundir.SPEC).write_text(json.dumps(without_template(json.loads(new.to_json()))), encoding="utf-8")
    assert spec_from(run, Request(overrides=("train.max_steps=2",))).data.template == "none"
    assert spec_from(run, Request(overrides=("data.template=auto",))).data.template == "auto"
    # Rows of turns are no mistake there: the old run did not ask for bare text.
    turns = rows("turns.jsonl", TURNS)
    assert spec_from(run, Request(overrides=(f"data.path={turns}",))).data.template == "none"


def test_a_mix_from_before_the_setting_reads_its_text_bare_as_it_did(rows):
    pairs = rows("pairs.jsonl", PAIR)
    new = spec(f"data.mix={{a: {{path: {pairs}}}}}", "data.path=null")
    old = RunSpec.from_json(json.dumps(without_template(json.loads(new.to_json()))))
    assert old.data.mix is not None
    assert (old.data.mix["a"]["template"], old.data.template) == ("none", "auto")
    assert RunSpec.from_json(new.to_json()).data.mix == new.data.mix


@pytest.mark.parametrize("stored", [{}, {"template": "auto"}])
def test_a_pipeline_from_before_the_setting_composes_its_stages_as_it_did(stored, here):
    stages = {
        name: {"choices": {}, "tree": {"data": {"path": "rows.jsonl", **stored}}, "fed": []}
        for name in ("sft", "reward", "ppo")
    }
    content = {"schema": 1, "pipeline": "rlhf", "options": {}, "name": "old", "stages": stages}
    Path("old").mkdir()
    (Path("old") / rundir.PIPELINE).write_text(json.dumps(content), encoding="utf-8")
    wanted, _ = load_request(Path("old"), Request())
    assert wanted.earlier is not None
    found = {kept["tree"]["data"]["template"] for kept in wanted.earlier.values()}
    assert found == {stored.get("template", "none")}


def has_chat_template(folder: Path | None) -> bool:
    return renders(ModelSettings(name_or_path="org/unknown"), folder)


def test_a_chat_template_is_found_in_the_files_of_a_tokenizer(here):
    folder = Path("model")
    folder.mkdir()
    assert has_chat_template(folder)  # no tokenizer here: most models have one
    assert has_chat_template(None)
    for value, expected in (("{{ x }}", True), (None, False), ([{"name": "default", "template": "{{ x }}"}], True)):
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}), encoding="utf-8")
        assert has_chat_template(folder) is expected
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    assert not has_chat_template(folder)
    (folder / "chat_template.jinja").write_text("{{ x }}", encoding="utf-8")
    assert has_chat_template(folder)
