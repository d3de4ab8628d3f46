"""What is still to be named (`???`) is asked for once, before a sweep or a pipeline has written anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.core.exit_codes import EXIT_CONFIG, EXIT_DONE

RUN = "# A run.\nftcli: 1\ndefaults: [{method: sft}, {model: tiny}]\ndata: {path: '???', eval_share: 0.1}\n"
PIPELINE = (
    "# A pipeline.\nftcli: 1\ndefaults: [{method: rlhf}, {model: tiny}]\n"
    "stages:\n  sft:\n    data: {path: '???', eval_share: 0.1}\n"
)
WHOLE = "# A pipeline.\nftcli: 1\ndefaults: [{method: rlhf}]\nmodel: {name_or_path: '???'}\n"
LEFT = {
    "run": (RUN, ["data.path=FILE"]),
    "pipeline": (PIPELINE, ["stages.sft.data.path=FILE"]),
    "model": (WHOLE, ["stages.sft.model.name_or_path=MODEL"]),
}
COMMANDS = {
    "one": ["train"],
    "every combination": ["train", "-m", "seed=1,2"],
    "a search": ["sweep", "train.learning_rate=1e-4,2e-4", "sweep.trials=1"],
    "at a scheduler": ["train", "hardware=slurm", "hardware.num_processes=1", "hardware.device=cpu"],
    "an array": ["train", "-m", "seed=1,2", "hardware=slurm", "hardware.num_processes=1", "hardware.device=cpu"],
}


@pytest.fixture(params=LEFT)
def recipe(request: pytest.FixtureRequest, here: Path) -> list[str]:
    text, left = LEFT[request.param]
    (here / "r.yaml").write_text(text, encoding="utf-8")
    return left


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_written_while_something_is_still_to_be_named(command, recipe, here, capsys):
    words = COMMANDS[command]
    if command == "a search" and "model" in recipe[0]:
        words = [*words, "stages.ppo.data.eval_share=0.1"]
    if command == "an array" and recipe != ["data.path=FILE"]:
        pytest.skip("pipelines are no array")
    before = sorted(here.iterdir())
    assert main([*words, "recipe=r.yaml", "run.dir=new"]) == EXIT_CONFIG
    told = capsys.readouterr().err
    for each in recipe:
        assert f"{each.partition('=')[0]}  ??? stands for what is still to be named\n  fix: add {each}\n" in told
    assert told.count("still to be named") == len(recipe), told
    assert sorted(here.iterdir()) == before


def test_what_is_still_to_be_named_is_checked_and_planned(recipe, capsys):
    assert main(["check", "recipe=r.yaml"]) == EXIT_DONE
    assert f"still to be named before it can train: {' '.join(recipe)}\n" in capsys.readouterr().err
    assert main(["train", "-m", "recipe=r.yaml", "seed=1", "--dry-run"]) == EXIT_DONE


def test_a_sweep_is_planned_by_the_command_that_starts_it(capsys):
    for command in ("plan", "check"):
        assert main([command, "-m", "seed=1,2"]) == EXIT_CONFIG
        assert "ftcli train -m … --dry-run plans each job" in capsys.readouterr().err
