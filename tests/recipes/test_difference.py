"""`ftcli recipe diff` names what differs, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from ftcli.build.resolve import spec_of
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.runs import rundir


def told(capsys, *words: str) -> dict[str, tuple[object, object]]:
    assert main(["recipe", "diff", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["differences"]
    return {each["setting"]: (each["first"], each["second"]) for each in found}


def test_a_recipe_differs_from_itself_in_nothing(here: Path, capsys) -> None:
    assert told(capsys, "demo", "demo") == {}
    assert main(["recipe", "diff", "demo", "demo"]) == 0
    assert capsys.readouterr().out == "no differences\n"


def test_recipes_and_runs_are_compared_as_they_are_resolved(here: Path, capsys) -> None:
    (here / "a.yaml").write_text("ftcli: 1\nseed: 3\n", encoding="utf-8")
    (here / "b.yaml").write_text("ftcli: 1\ndefaults:\n  - peft: lora\nrun:\n  name: other\n", encoding="utf-8")
    found = told(capsys, "a.yaml", "b.yaml")
    assert found["peft"] == ("none", "lora")
    assert found["seed"] == (3, 42)
    assert found["peft.r"][0] == "not set"
    assert found["train.learning_rate"][0] != found["train.learning_rate"][1]  # derived: higher for an adapter
    assert not {"run.name", "run.dir"} & found.keys()
    spec = spec_of(Request(overrides=("recipe=a.yaml", "run.dir=mine")))
    (here / "mine").mkdir()
    (here / "mine" / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    assert told(capsys, "a.yaml", "mine") == {}
    assert main(["recipe", "diff", "a.yaml", "b.yaml"]) == 0
    assert "seed" in capsys.readouterr().out


def test_what_is_neither_recipe_nor_run_is_told(here: Path, capsys) -> None:
    assert main(["recipe", "diff", "demo", "nothing"]) == 2
    assert "nothing is not a recipe" in capsys.readouterr().err
    assert main(["recipe", "diff", "demo"]) == 2
