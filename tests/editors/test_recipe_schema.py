"""The JSON Schema of recipes says what ftcli's own checks say: of every field, with values of every type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ftcli.build.checks.field_checks import check_group
from ftcli.cli import main
from ftcli.config.compose import Composed, Request
from ftcli.config.recipe_file import read
from ftcli.config.tree import Origin
from ftcli.core import assets
from ftcli.core.errors import ConfigError
from ftcli.core.strict_yaml import load
from ftcli.editors.recipe_schema import recipe_schema
from ftcli.methods import all_methods, get_method
from ftcli.peft_methods import PEFT_METHODS, peft_method
from ftcli.settings.fields import field_table
from ftcli.settings.groups import OWN_GROUPS
from ftcli.settings.library_fields import TRAINING_ARGUMENTS, fields_of
from ftcli.settings.limits import LIMITS
from ftcli.settings.ownership import FLAGS
from ftcli.settings.tracker_problems import value_fault
from ftcli.settings.trackers import TRACKERS
from ftcli.sweeps.search_space import merged, space_of
from ftcli.sweeps.sweep_settings import NAMES, read_settings

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema reads the schema, as an editor does")

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    0.5,
    1e30,
    "",
    "auto",
    "no such word",
    [],
    ["x"],
    [1, 2],
    {},
    {"a": "b"},
)
"""Values of every type that YAML has, inside and outside of most limits."""


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return recipe_schema()


def validator(schema: Mapping[str, Any], definition: str = "") -> Any:
    """What an editor has of the schema, or of one of its definitions."""
    whole = {"$ref": f"#/$defs/{definition}", "$defs": schema["$defs"]} if definition else schema
    return jsonschema.Draft202012Validator(whole)


def faults(schema: Mapping[str, Any], recipe: Any) -> list[str]:
    return [f"{error.json_path}: {error.message[:200]}" for error in validator(schema).iter_errors(recipe)]


def test_it_is_a_schema_of_its_dialect(schema):
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", assets.recipes())
def test_every_shipped_recipe_is_valid(name, schema):
    path = assets.recipes()[name]
    recipe = load(path).data
    assert faults(schema, recipe) == []
    assert faults(recipe_schema(read(path).choices), recipe) == [], "under the schema of its own choices"


def test_a_search_is_described_as_it_is_read(schema):
    def refused(sweep: dict[str, Any]) -> bool:
        try:
            read_settings(sweep, str, [], search=True)
            if "space" in sweep:
                merged(space_of(sweep["space"], str), [], [])
        except ConfigError:
            return True
        return False

    written = [{name: value} for name in NAMES for value in VALUES]
    written += [{"space": {"train.learning_rate": value}} for value in (*VALUES, {"low": 1, "high": 2, "log": True})]
    for each in written:
        assert refused(each) == bool(faults(schema, {"ftcli": 1, "sweep": each})), each
    assert faults(schema, {"ftcli": 1, "sweep": {"trails": 3}})


# --- the same verdict as the checks -----------------------------------------------------------------------------------


def verdicts(schema: Mapping[str, Any], group: str, name: str, choice: str, method: str = "sft") -> Iterator[str]:
    """Each setting and value of a group of which the schema and the checks say different things."""
    peft = peft_method({"name": choice}) if group == "peft" else None
    keys = {*_keys(group), *(peft.fields() if peft else ())}
    reads = validator(schema, name)
    for key in sorted(keys - {"name", "mix", "judge", "rewards"}):  # whose entries are checked with those of others
        for value in VALUES:
            composed = Composed(
                tree={"method": {}, "peft": {}, group: {key: value}},
                choices={"method": method, "peft": choice if peft else "none", "quantisation": "none"},
                origins={(group,): Origin("r.yaml:1", "recipe")},
                request=Request(grants=FLAGS),
            )
            refused = bool(check_group(composed, group, get_method(method), peft))
            if refused == reads.is_valid({key: value}) and not _only_beyond(value):
                yield f"{group}.{key}={value!r} {'refused' if refused else 'accepted'} by the checks"


def _only_beyond(value: Any) -> bool:
    """Numbers beyond all sense are refused by the checks alone: the schema bounds what a setting's own limits bound."""
    return isinstance(value, float) and value > 1e18


def _keys(group: str) -> set[str]:
    """Every key that any choice of a group has, those that something else owns or that are refused among them."""
    rows = {name.partition(".")[2].partition("@")[0] for name in field_table.FIELDS if name.startswith(f"{group}.")}
    known = {
        "train": fields_of(TRAINING_ARGUMENTS),
        "method": [key for method in all_methods().values() for key in fields_of(method.config)],
        "peft": ["r", "type", "deep", "peft_type", "task_type", "num_virtual_tokens"],
    }
    own = fields_of(f"ftcli.settings.groups:{OWN_GROUPS[group].__name__}") if group in OWN_GROUPS else ()
    return {*rows, *known.get(group, ()), *own, "no_such_key"}


@pytest.mark.parametrize("group", ["train", *OWN_GROUPS])
def test_a_group_is_judged_as_by_the_checks(group, schema):
    assert [*verdicts(schema, group, f"group.{group}", "none")] == []


@pytest.mark.parametrize("method", all_methods())
def test_a_methods_options_are_judged_as_by_the_checks(method, schema):
    assert [*verdicts(schema, "method", f"method.{method}", "none", method)] == []


@pytest.mark.parametrize("name", [name for name in PEFT_METHODS if name != "other"])
def test_an_adapters_options_are_judged_as_by_the_checks(name, schema):
    assert [*verdicts(schema, "peft", f"peft.{name}", name)] == []


def test_a_number_outside_its_limits_is_refused_and_one_at_them_is_not(schema):
    reads = validator(schema, "group.train")
    assert LIMITS["train.warmup_steps"].low == 0
    assert reads.is_valid({"warmup_steps": 0})
    assert not reads.is_valid({"warmup_steps": -1})


# --- what depends on a choice -----------------------------------------------------------------------------------------

RECIPES: dict[str, tuple[str, bool]] = {
    "a key of the chosen method": ("defaults: [{method: dpo}]\nmethod: {beta: 0.2}", True),
    "a key of another method": ("defaults: [{method: sft}]\nmethod: {beta: 0.2}", False),
    "a key of another method than the default": ("method: {beta: 0.2}", False),
    "a key of the default": ("method: {packing: true}", True),
    "a key of the chosen adapter": ("defaults: [{peft: lora}]\npeft: {r: 8}", True),
    "a key of an adapter where none is": ("peft: {r: 8}", False),
    "another choice": ("defaults: [{method: dop}]", False),
    "two groups in one entry": ("defaults: [{method: dpo, peft: lora}]", False),
    "another tuner of PEFT": ("defaults: [{peft: other}]\npeft: {type: LOHA, r: 8}", True),
    "another tuner without its type": ("defaults: [{peft: other}]\npeft: {r: 8}", False),
    "P-tuning's encoder": ("defaults: [{peft: p_tuning}]\npeft: {encoder_hidden_size: 8}", True),
    "an encoder where P-tuning has none": (
        "defaults: [{peft: p_tuning}]\npeft: {deep: true, encoder_dropout: 0}",
        False,
    ),
    "a reference": ("train: {learning_rate: '${train.weight_decay}'}", True),
    "nothing below a group": ("train:\nseed: 1", True),
    "stages of a single run": ("stages: {sft: {seed: 1}}", False),
    "a judge of a single run": ("judge: {type: local}", False),
    "a stage's own method": (
        "defaults: [{method: rlhf}]\nstages: {reward: {method: {center_rewards_coefficient: 0.1}}}",
        True,
    ),
    "a stage's key of another method": ("defaults: [{method: rlhf}]\nstages: {reward: {method: {beta: 0.1}}}", False),
    "a stage that is not": ("defaults: [{method: rlhf}]\nstages: {dpo: {seed: 1}}", False),
    "a model in place of a stage": ("defaults: [{method: rlhf}]\nstages: {sft: {model: runs/sft/1}}", True),
    "a stage with the recipe's adapter": (
        "defaults: [{method: rlhf}, {peft: lora}]\nstages: {sft: {peft: {r: 8}}}",
        True,
    ),
    "a stage with its own adapter": (
        "defaults: [{method: rlhf}, {peft: lora}]\nstages: {sft: {defaults: [{peft: ia3}], peft: {r: 8}}}",
        False,
    ),
    "a stage of the chosen algorithm": (
        "defaults: [{method: rlaif}]\nmethod: {algorithm: ppo}\nstages: {reward: {seed: 1}}",
        True,
    ),
    "a stage of another algorithm": ("defaults: [{method: rlaif}]\nstages: {reward: {seed: 1}}", False),
    "a stage of a later round": (
        "defaults: [{method: online_dpo}]\nmethod: {rounds: 9}\nstages: {dpo_7: {seed: 1}}",
        True,
    ),
    "a synthesis stage": ("defaults: [{method: rlaif}]\nstages: {sample: {make: {n: 2}, generator: {model: x}}}", True),
    "a synthesis stage that trains": ("defaults: [{method: rlaif}]\nstages: {sample: {train: {max_steps: 1}}}", False),
    "a set of a mix": ("data: {mix: {a: {path: a.jsonl, repeat: 2}}}", True),
    "a key that no set has": ("data: {mix: {a: {path: a.jsonl, repeated: 2}}}", False),
    "a reward by name": (
        "defaults: [{method: grpo}]\nmethod: {rewards: {length: {most: 9, weight: 2}, ended: 1}}",
        True,
    ),
    "no reward of that name": ("defaults: [{method: grpo}]\nmethod: {rewards: {lenght: 1}}", False),
    "a judge's key": ("defaults: [{method: grpo}]\nmethod: {judge: {model: x, batch_size: 8}}", True),
    "no version": ("", False),
}


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_may_set_follows_its_choices(name, schema, tmp_path: Path):
    text, valid = RECIPES[name]
    path = tmp_path / "r.yaml"
    path.write_text(f"ftcli: 1\n{text}\n" if text else "seed: 1\n", encoding="utf-8")
    found = faults(schema, load(path).data)
    assert (found == []) is valid, found
    if text and "defaults" in text and "another choice" != name != "two groups in one entry":
        assert (faults(recipe_schema(read(path).choices), load(path).data) == []) is valid


def test_each_setting_has_its_documentation_and_the_default_of_its_choice(schema):
    rate = schema["$defs"]["group.train"]["properties"]["learning_rate"]
    assert "learning rate" in rate["description"]
    assert schema["$defs"]["peft.lora"]["properties"]["r"]["default"] == load(assets.choices("peft")["lora"]).data["r"]
    undocumented = [
        f"{group}.{key}"
        for group in OWN_GROUPS
        for key, value in schema["$defs"][f"group.{group}"]["properties"].items()
        if not value.get("description")
    ]
    assert undocumented == []


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_schema_of_all_recipes_or_of_one(capsys, tmp_path: Path, schema):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(schema))
    assert main(["schema", "demo"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert [key for key in own["$defs"] if key.startswith(("method.", "peft."))] == ["method.sft", "peft.lora"]
    assert main(["schema", "deno"]) == 2
    assert "demo" in capsys.readouterr().err


def test_group_files_of_your_own_are_choices_too(capsys, tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "ours.yaml").write_text("# Our base\nname_or_path: ours/base\n", encoding="utf-8")
    assert main(["schema", "-cd", str(tmp_path)]) == 0
    own = json.loads(capsys.readouterr().out)
    assert faults(own, {"ftcli": 1, "defaults": [{"model": "ours"}]}) == []
    assert faults(recipe_schema(), {"ftcli": 1, "defaults": [{"model": "ours"}]}) != []


def test_the_settings_of_trackers_have_their_words_types_and_texts(schema):
    check = validator(schema)
    for name, tracker in TRACKERS.items():
        for key, setting in tracker.settings.items():
            for value in (*VALUES, *setting.choices, "http://x"):
                recipe = {"ftcli": 1, "run": {"trackers": [name], "tracking": {name: {key: value}}}}
                refused = value is not None and value_fault(setting, value)
                if not refused:
                    assert check.is_valid(recipe), (name, key, value)
                elif not (setting.type is str and isinstance(value, str) and not setting.choices):
                    assert not check.is_valid(recipe), (name, key, value)
    found = json.dumps(schema)
    assert all(each.text in found for tracker in TRACKERS.values() for each in tracker.settings.values())
