"""The keys of other tools: every target is a setting that may be set, and a check names it however the key is typed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftcli.cli import arguments
from ftcli.config.group_fields import group_fields, settable
from ftcli.config.importers import Key, all_importers
from ftcli.config.key_hints import UNKNOWN, remedy, translated
from ftcli.config.overrides import parse
from ftcli.core import assets
from ftcli.core.errors import ConfigError
from ftcli.methods import get_method
from ftcli.peft_methods import peft_method
from ftcli.settings.fields.field_table import ENTRIES
from ftcli.settings.groups import GROUPS

TOOLS = list(all_importers())
OURS = {"seed", *GROUPS, "run"}
"""Keys that other tools share with us: they need no hint."""


def rows(tool: str) -> Iterator[tuple[Key, str, Any]]:
    """Each row of a tool once for each of its keys and values; where it names none, with 1."""
    for row in all_importers()[tool].keys:
        for name in row.names:
            if name not in OURS:
                yield from ((row, name, value) for value in row.values or [1])


def targets(tool: str) -> Iterator[tuple[str, list[str]]]:
    """Every list of overrides that a table can name."""
    for row in all_importers()[tool].keys:
        for name in row.names:
            if row.to:
                yield name, [f"{row.setting(name)}=1", *row.under.split()]
            yield from ((name, text.split()) for text in row.values.values())


@pytest.mark.parametrize("tool", TOOLS)
def test_no_hint_names_a_key_that_is_refused(tool):
    for name, overrides in targets(tool):
        chosen = {each.name: each.value for each in map(parse, overrides) if each.name in GROUPS}
        method = get_method(chosen.get("method", "sft"))
        assert all(value in assets.choices(group) for group, value in chosen.items()), (name, overrides)
        values = {each.key[1]: each.value for each in map(parse, overrides) if each.key[0] == "peft" and each.key[1:]}
        peft = peft_method({**values, "name": chosen.get("peft", "lora")})
        for each in map(parse, overrides):
            if len(each.key) == 2:
                group, key = each.key
                fields = group_fields(group, method, peft)
                assert key in settable(group, fields, peft if group == "peft" else None), (name, overrides)
            else:
                assert each.name in {*GROUPS, "seed", "recipe", *ENTRIES}, (name, overrides)


def test_the_targets_compose_without_an_unknown_or_refused_key(problems):
    unknown = ("is not an option of", "is owned by", "is refused", "is not a group", "is not a choice of")
    together: dict[tuple[str, ...], dict[str, str]] = {}
    for tool in TOOLS:
        for _, overrides in targets(tool):
            choices = tuple(sorted(each for each in overrides if parse(each).name in GROUPS or "peft.type" in each))
            settings = {parse(each).name: each for each in overrides if each not in choices and each != "recipe=1"}
            together.setdefault(choices, {}).update(settings)
    for choices, settings in together.items():
        for problem in problems(*choices, *settings.values()):
            assert not any(each in problem for each in unknown), problem


def said(hint: str, row: Key, name: str, value: Any, *, recipe: bool = False) -> bool:
    """Whether a hint says what a row says; where tools disagree, those that translate the key win."""
    if not (row.to or row.values):
        return bool(hint)
    chosen = replace(row, under="")  # where the choice is already made
    return any(translated(each, name, value, recipe=recipe) in hint for each in (row, chosen))


@pytest.mark.parametrize("tool", TOOLS)
def test_every_key_is_named_rightly_as_key_value(tool, problems):
    pairs = {name: (row, value) for row, name, value in rows(tool) if "." not in name}
    found = problems(*(f"{name}={value}" for name, (_, value) in pairs.items()))
    hints = {text.partition("=")[0]: text.partition("fix: ")[2] for text in found}
    for name, (row, value) in pairs.items():
        typed = {"true": True, "false": False, "null": None}.get(value, value)
        assert said(hints[name], row, name, typed), (name, value, hints[name])


@pytest.mark.parametrize("tool", TOOLS)
def test_every_key_is_named_rightly_as_a_flag(tool):
    parser = arguments.composing("check", "")
    known = parser.format_help()
    for row, name, value in rows(tool):
        if f"--{name.replace('_', '-')}" in known:
            continue
        with pytest.raises(ConfigError) as refused:
            arguments.parse(parser, [f"--{name}", str(value)])
        [problem] = refused.value.problems
        assert problem.where == f"--{name} {value}"
        assert "key=value" in problem.what
        assert said(problem.fix, row, name, value), (name, value, problem.fix)


def as_file(names: dict[str, Any]) -> dict[str, Any]:
    """A configuration with these dotted keys; `datasets` is a list, as in the tools' own."""
    data: dict[str, Any] = {}
    for name, value in names.items():
        node = data
        *outer, last = name.split(".")
        for depth, key in enumerate(outer):
            inner = node.setdefault(key, {} if depth or key not in ("datasets", "pretraining_dataset") else [{}])
            node = inner[0] if isinstance(inner, list) else inner
        node.setdefault(last, value)
    return data


@pytest.mark.parametrize("tool", TOOLS)
def test_every_key_is_named_rightly_in_a_recipe(tool, here, problems):
    pairs = {name: (row, value) for row, name, value in rows(tool)}
    outer = {name.rpartition(".")[0] for name in pairs} | {name.split(".")[0] for name in pairs if "." in name}
    wanted = {name: pair for name, pair in pairs.items() if name not in outer}
    values = {name: {"true": True, "false": False, "null": None}.get(v, v) for name, (_, v) in wanted.items()}
    Path("theirs.yaml").write_text(yaml.safe_dump(as_file(values), sort_keys=False))
    found = problems("recipe=theirs.yaml")
    if tool != "general":
        assert all_importers()[tool].title in found[0] or "not a recipe of ftcli" in found[0]
    lines = {text.split("  ")[1].split(" ")[0]: text for text in found}
    for name, (row, _) in wanted.items():
        assert "theirs.yaml:" in lines[name]
        read = yaml.safe_load(yaml.safe_dump(values[name]))
        assert said(lines[name].partition("fix: ")[2], row, name, read, recipe=True), (name, lines[name])


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("lora_rank", 16, "peft.r=16 with peft=lora"),
        ("cutoff_len", 512, "data.max_length_tokens=512"),
        ("micro_batch_size", 2, "train.per_device_train_batch_size=2"),
        ("finetuning_type", "lora", "peft=lora"),
        ("epochs", 3, "train.num_train_epochs=3"),
        ("lr", "1e-5", "train.learning_rate=1e-5"),
        ("stage", "dpo", "method=dpo"),
        ("load_in_4bit", True, "quantisation=nf4"),
        ("base_model", "x/y", "model.name_or_path=x/y"),
        ("max-seq-length", 512, "data.max_length_tokens=512"),
        ("learning_rate", UNKNOWN, "train.learning_rate"),
        ("learning_rte", 1, "did you mean learning_rate? It is train.learning_rate=1"),
        ("output_dir", "out", "run.dir=out"),
        ("hub_token", "x", "log in with hf auth login"),
        ("trust_remote_code", True, "--trust-remote-code"),
    ],
)
def test_the_keys_that_are_typed_most(key, value, hint):
    assert hint in str(remedy(key, value))


def test_what_is_like_nothing_has_no_hint():
    assert remedy("zzzz", 1) is None


def test_a_hint_keeps_to_the_adapter_and_the_method_that_are_chosen(problems):
    assert "fix: peft.r=8" in problems("peft=dora", "lora_rank=8")[0]
    assert "with peft=lora" not in problems("peft=dora", "lora_rank=8")[0]
    assert "fix: method.beta=0.2" in problems("method=ipo", "pref_beta=0.2")[0]
    assert "method=dpo" not in problems("method=ipo", "pref_beta=0.2")[0]
    [problem] = problems("peft=other", "peft.type=LOHA", "peft.lora_alpha=3")
    assert "did you mean peft.alpha?" in problem


@pytest.mark.parametrize("name", ["train.lora_rank", "peft.lora_rank", "data.lora_rank", "method.lora_rank"])
def test_a_foreign_key_in_one_of_our_groups_is_named_too(name, problems):
    assert "peft.r=8" in problems("peft=lora", f"{name}=8")[0]
