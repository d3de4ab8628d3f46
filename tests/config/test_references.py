"""References between settings: what they resolve to, how `${` itself is written, and where they end."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ftcli.build.resolve import spec_of
from ftcli.config import references
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.core.strict_yaml import KeyPath
from tests.config.test_recipes import HEAD, write


def resolved(**data: Any) -> dict[str, Any]:
    return references.resolved(data, lambda path: ".".join(path))


def fault(**data: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(**data)
    [problem] = caught.value.problems
    return str(problem)


def test_a_reference_becomes_the_value_and_inside_a_text_its_characters():
    found = resolved(a={"b": 3, "c": [1, {"d": "${a.b}"}], "e": None}, x="${a.c}", y="<${a.b}|${a.e}>", z="${y}!")
    assert found["x"] == [1, {"d": 3}]
    assert (found["y"], found["z"]) == ("<3|None>", "<3|None>!")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("$${", "${"), ("cost: $${price}", "cost: ${price}"), ("$${${b}}", "${3}"), ("$$", "$$"), ("$5 {x}", "$5 {x}")],
)
def test_an_escape_writes_the_characters_themselves(written, meant):
    assert resolved(b=3, text=written)["text"] == meant
    assert references.escaped(meant if "3" not in meant else "${3}") == meant.replace("${", "$${")


def test_what_is_resolved_is_never_resolved_again():
    # "$" and "{b}" come from two settings and together look like a reference.
    assert resolved(b=3, one="$", two="{b}", text="${one}${two}")["text"] == "${b}"


@pytest.mark.parametrize("end", ["${a.a}", "${a}", "${b}"])
def test_a_circle_is_told(end):
    assert "refers back to it" in fault(a={"a": end}, b="${a.a}")


def test_a_reference_to_nothing_is_told_with_the_setting_that_has_it():
    assert fault(a={"b": ["x", "${a.c}"]}).startswith("a.b.1  a.b.1 refers to a.c, which is not set")
    assert "no single value" in fault(a={"b": {}}, c="x${a.b}")


def multiplied(levels: int) -> dict[str, str]:
    """References to references, each ten times the one before: 10^levels characters from a few lines."""
    return {"a0": "x", **{f"a{at}": f"${{a{at - 1}}}" * 10 for at in range(1, levels + 1)}}


def test_references_put_in_at_most_so_many_characters_and_values():
    # Levels 1 to 5 put in 10 + 100 + ... + 100,000 = 111,110 characters; level 6 would add a million.
    assert references.MAX_CHARACTERS == 1_000_000
    assert len(resolved(**multiplied(5))["a5"]) == 100_000
    assert f"more than {references.MAX_CHARACTERS} characters" in fault(**multiplied(6))
    assert f"more than {references.MAX_CHARACTERS} characters" in fault(**multiplied(24))
    lists: dict[str, Any] = {"a0": [1] * 9, **{f"a{at}": [f"${{a{at - 1}}}"] * 9 for at in range(1, 10)}}
    assert f"{references.MAX_VALUES} values" in fault(**lists)


def test_a_naive_reader_would_write_ten_thousand_million_characters():
    # The planted fault is one: what OmegaConf makes of four levels grows by ten with each.
    from omegaconf import OmegaConf

    for levels in (2, 3, 4):
        assert len(OmegaConf.create(multiplied(levels))[f"a{levels}"]) == 10**levels


def test_a_chain_of_references_ends_before_the_stack_does():
    chain = {f"a{at}": f"${{a{at + 1}}}" for at in range(5_000)} | {"a5000": 1}
    assert f"more than {references.MAX_CHAIN} references" in fault(**chain)
    short = {f"a{at}": f"${{a{at + 1}}}" for at in range(references.MAX_CHAIN)} | {f"a{references.MAX_CHAIN}": 1}
    assert resolved(**short)["a0"] == 1
    deep = {f"a{at}": {"x": {"x": {"x": {"x": {"x": f"${{a{at + 1}}}"}}}}} for at in range(20)} | {"a20": 1}
    assert f"more than {references.MAX_OPEN} levels" in fault(**deep)


def test_origins_are_kept_by_path():
    asked: list[KeyPath] = []

    def where(path: KeyPath) -> str:
        asked.append(path)
        return "here"

    with pytest.raises(ConfigError):
        references.resolved({"a": {"b": "${c}"}}, where)
    assert asked == [("a", "b")]


# --- as a user meets them -------------------------------------------------------------------------------------------


def test_a_recipe_that_multiplies_is_refused_with_its_line(problems, here):
    written = {at: text.replace("${a", "${train.lr_scheduler_kwargs.a") for at, text in multiplied(10).items()}
    lines = "".join(f"    {at}: '{text}'\n" for at, text in written.items())
    write(f"{HEAD}train:\n  lr_scheduler_kwargs:\n{lines}")
    [found] = problems("recipe=r.yaml")
    assert found.startswith("r.yaml:12  train.lr_scheduler_kwargs.a6 brings what references put in to more than")


def test_a_text_of_a_recipe_keeps_the_characters_that_are_escaped(problems, here):
    write(HEAD + "model: {new_tokens: ['<$${oc.env:HOME}>']}\n")
    assert spec_of(Request(overrides=("recipe=r.yaml",))).model.new_tokens == ["<${oc.env:HOME}>"]
    write(HEAD + "model: {new_tokens: ['<${oc.env:HOME}>']}\n")
    [found] = problems("recipe=r.yaml")
    assert "for the characters ${ themselves write $${" in found


@pytest.mark.parametrize("quotes", ["'", '"'])
def test_on_the_command_line_the_escape_is_the_same(problems, here, quotes):
    typed = f"model.new_tokens=[{quotes}<$${{b>{quotes}]"
    assert spec_of(Request(overrides=(typed,))).model.new_tokens == ["<${b>"]
    [found] = problems(typed.replace("$$", "$"))
    assert "for the characters ${ themselves write $${" in found


def test_a_group_file_may_escape_too_and_hydra_sees_none_of_it(here):
    write("name_or_path: builtin:tiny\nnew_tokens: ['a$${b']\n", "conf/model/mine.yaml")
    spec = spec_of(Request(overrides=("model=mine",), config_dirs=(here / "conf",)))
    assert spec.model.new_tokens == ["a${b"]


def test_a_path_of_a_recipe_may_hold_the_characters_too(here):
    write('{"text": "a"}\n', "x${y.jsonl")
    write(HEAD + "data: {path: 'x$${y.jsonl'}\n")
    spec = spec_of(Request(overrides=("recipe=r.yaml",)))
    assert spec.data.path == str(here / "x${y.jsonl")


def test_the_printed_configuration_can_be_pasted_into_a_recipe(here, capsys):
    from ftcli.cli import main

    assert main(["train", "model.new_tokens=['a$${b}']", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["new_tokens"] == ["a$${b}"]
