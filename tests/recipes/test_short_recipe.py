"""A short recipe says what a run was, and its values are read back as they were, whoever wrote the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.build.resolve import resolved, spec_of
from ftcli.cli import main
from ftcli.config import recipe_yaml
from ftcli.config.compose import Request, compose
from ftcli.config.recipe_file import read
from ftcli.config.references import escaped, unescaped
from ftcli.core import assets
from ftcli.core.strict_yaml import load
from ftcli.methods import all_pipelines
from ftcli.recipes import short_recipe
from ftcli.recipes.locking import deciding
from ftcli.settings.run_spec import RunSpec

SINGLE = [name for name, path in assets.recipes().items() if read(path).choices.get("method") not in all_pipelines()]


def spec_as(*overrides: str, **request: object) -> RunSpec:
    """The spec of a command, whether or not its model and card are here."""
    return resolved(compose(Request(overrides=overrides, **request))).spec  # type: ignore[arg-type]


def saved(spec: RunSpec, folder: Path) -> Path:
    """The short recipe of a spec, as a file."""
    text, _ = short_recipe.recipe(spec, folder, "short.yaml", ["measured: nothing"])
    file = folder / "short.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", SINGLE)
def test_the_short_recipe_of_a_shipped_one_is_the_same_run(name: str, here: Path) -> None:
    spec = spec_as(f"recipe={name}")
    again = spec_as(f"recipe={saved(spec, here)}")
    assert deciding(again) == deciding(spec)
    assert again.choices == spec.choices


def test_only_what_differs_is_written_and_says_what_it_is(here: Path) -> None:
    file = saved(spec_of(Request(overrides=("peft=lora", "peft.r=4", "train.learning_rate=1e-3"))), here)
    assert load(file).data == {
        "ftcli": 1,
        "defaults": [{"peft": "lora"}],
        "peft": {"r": 4},
        "train": {"learning_rate": 0.001},
    }
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# sft of builtin:tiny, peft=lora.   ftcli train recipe=short.yaml"
    assert any(
        line.startswith("  learning_rate: 0.001") and "learning rate" in line.partition("#")[2] for line in lines
    )


def test_a_recipe_beside_its_rows_names_them_as_seen_from_there(here: Path) -> None:
    (here / "mine").mkdir()
    row = json.dumps({"prompt": "a", "completion": "b"}) + "\n"
    (here / "mine/rows.jsonl").write_text(row * 8, encoding="utf-8")
    (here / "far.jsonl").write_text(row * 8, encoding="utf-8")
    spec = spec_of(Request(overrides=("data.path=mine/rows.jsonl", "data.eval_path=far.jsonl")))
    text, elsewhere = short_recipe.recipe(spec, here / "mine", "short.yaml", [])
    assert elsewhere == ["far.jsonl"]
    (here / "mine/short.yaml").write_text(text, encoding="utf-8")
    assert load(here / "mine/short.yaml").data["data"] == {"path": "rows.jsonl", "eval_path": "far.jsonl"}
    assert str(here) not in text


def test_a_group_file_of_ones_own_is_written_out(here: Path) -> None:
    own = here / "groups/train"
    own.mkdir(parents=True)
    (own / "slow.yaml").write_text("learning_rate: 1e-6\n", encoding="utf-8")
    spec = spec_as("train=slow", config_dirs=(here / "groups",))
    again = spec_as(f"recipe={saved(spec, here)}")
    assert again.choices["train"] == "default"
    assert again.train["learning_rate"] == 1e-6


VALUES = (
    "a\nb: c", "# no comment", "${train.learning_rate}", "$${x}", "no", "y", "~", "null", "1e-5", "0x10", "-", "- a",
    "a: b", "a:", "builtin:tiny", "é ü", "\U0001f600", "\x1b[31m", "\u2028", "\x85", "'", '"', "\\", "[", "{a}", "@x",
    "!!python/object/apply:os.system", "&a", "*a", "%", " ", "", 1e-5, 1e300, -0.0, 10**30, True, None, float("inf"),
    -float("inf"), [], {}, [None, {"a": [1]}], {"a b": {"- c": "d"}}, "12:30:45", "2026-01-01", ".", "..", "a..", ".a",
)  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_every_value_is_read_back(value: object, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    lines = recipe_yaml.lines({"train": {"a": value, "b": 1}}, lambda _: "said\nx: 1")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert repr(load(file).data) == repr({"train": {"a": escaped(value), "b": 1}})
    assert unescaped(escaped("${a}")) == "${a}"


def test_what_a_run_of_a_stranger_says_of_itself_stays_in_its_comment(here: Path) -> None:
    spec = spec_as()
    text, _ = short_recipe.recipe(spec, here, "x.yaml", ["measured: 1\nmodel:\n  trust_remote_code: true\x1b[2J"])
    (here / "x.yaml").write_text(text, encoding="utf-8")
    assert load(here / "x.yaml").data == {"ftcli": 1}
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing-here"], "nothing-here is not a run"),
        ([], "needs a run or a command"),
        (["method=rlhf", "stages.nowhere.seed=1"], "does not name a stage"),
        (["seed=1", "--to", "x.txt"], "is not the name of a recipe"),
        (["seed=1", "--to", "there.yaml"], "is there already"),
        (["seed=1", "--to", "no/x.yaml"], "its folder is not there"),
    ],
)
def test_what_cannot_be_saved_is_told_with_its_remedy(words: list[str], told: str, here: Path, capsys) -> None:
    (here / "there.yaml").write_text("ftcli: 1\n", encoding="utf-8")
    assert main(["recipe", "save", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "fix: " in error


def test_a_command_is_saved_as_not_measured(here: Path, capsys) -> None:
    assert main(["recipe", "save", "seed=7", "--to", "seven.yaml"]) == 0
    assert load(here / "seven.yaml").data == {"ftcli": 1, "seed": 7}
    assert "# not measured" in (here / "seven.yaml").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["recipe", "save", "recipe=seven.yaml"]) == 0
    assert "seed: 7" in capsys.readouterr().out
