"""What a foreign configuration names on its author's machine is left open in the recipe, and asked for in training."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from ftcli.cli import main
from ftcli.cli.jobs.imported import imported
from ftcli.config.conversion import convert
from ftcli.core.exit_codes import EXIT_CONFIG, EXIT_DONE
from ftcli.core.paths import UNNAMED
from tests.config.conversion import configurations
from tests.config.conversion.test_conversion import recipe_of, written


def test_rows_that_the_file_does_not_name_are_left_open_and_nothing_else_is_trained_on(here):
    text = configurations.LLAMA_FACTORY.replace("dataset: identity,alpaca_en_demo\n", "")
    found = imported(written(text))
    assert recipe_of(found.conversion)["data"]["path"] == UNNAMED
    assert found.conversion.account.waits_for == ("data.path=FILE, since the file names no rows",)
    assert not found.problems


def test_a_model_that_the_file_does_not_name_is_left_open(here):
    text = re.sub(r"model_name_or_path: .*\n", "", configurations.LLAMA_FACTORY)
    found = imported(written(text), "llama_factory")
    assert recipe_of(found.conversion)["model"]["name_or_path"] == UNNAMED
    assert not found.problems
    assert not found.conversion.account.unsupported


ABSENT = """\
base_model: /data/anna/llama-ours
adapter: lora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
sequence_len: 512
learning_rate: 1e-4
datasets:
  - path: rows/support.jsonl
    type: chat_template
  - path: beside.jsonl
    type: chat_template
  - path: org/on-the-hub
    type: chat_template
"""


def test_a_model_and_rows_of_another_machine_are_left_open_and_said_by_key_and_name(here, capsys):
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}]
    Path("beside.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written(ABSENT, "theirs.yaml")
    assert main(["recipe", "import", "theirs.yaml", "--to", "ours.yaml"]) == EXIT_DONE
    shown = capsys.readouterr().out
    model = "/data/anna/llama-ours is not on this machine"
    support = "rows/support.jsonl is not on this machine"
    assert f'base_model: "/data/anna/llama-ours" → model.name_or_path={UNNAMED}   ({model}' in shown
    assert f'datasets[0].path: "rows/support.jsonl" → data.mix.support.path={UNNAMED}   ({support}' in shown
    assert "ftcli train asks for what is still to be named" in shown
    text = Path("ours.yaml").read_text()
    assert f"# To be named: model.name_or_path=MODEL, since {model}." in text
    assert f"# To be named: data.mix.support.path=FILE, since {support}." in text
    mix = yaml.safe_load(text)["data"]["mix"]
    assert [each["path"] for each in mix.values()] == [UNNAMED, "beside.jsonl", "org/on-the-hub"]
    assert main(["check", "recipe=ours.yaml"]) == EXIT_DONE
    assert main(["plan", "recipe=ours.yaml"]) == EXIT_DONE
    capsys.readouterr()
    assert main(["train", "recipe=ours.yaml"]) == EXIT_CONFIG
    said = capsys.readouterr().err
    assert "add model.name_or_path=MODEL" in said
    assert "add data.mix.support.path=FILE" in said
    assert not Path("runs").exists()


def test_an_example_of_torchtune_says_in_its_comments_which_model_its_folder_holds(here):
    name, text = configurations.FILES["torchtune"]
    text = re.sub(r"checkpoint_dir: \S+", "checkpoint_dir: /tmp/ours/", text)
    told = "# tune download some-org/ours-1b --output-dir /tmp/ours --ignore-patterns x\n"
    assert recipe_of(convert(written(told + text, name)))["model"]["name_or_path"] == "some-org/ours-1b"
    assert recipe_of(convert(written(text, name)))["model"]["name_or_path"] == UNNAMED


@pytest.mark.parametrize(
    "left",
    ["model.name_or_path=MODEL", "data.path=FILE", "data.eval_path=FILE", "method.reward_model=MODEL"],
)
def test_what_is_still_to_be_named_is_checked_and_planned_and_never_trained_on(left, here, capsys):
    words = ["method=ppo" if "reward" in left else "method=sft", f"{left.partition('=')[0]}={UNNAMED}"]
    assert main(["check", *words]) == EXIT_DONE
    assert f"still to be named before it can train: {left}" in capsys.readouterr().err
    assert main(["plan", *words]) == EXIT_DONE
    assert f"still to be named, and unknown until then with all that follows from it: {left}" in capsys.readouterr().out
    assert main(["train", *words]) == EXIT_CONFIG
    assert f"fix: add {left}" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_three_letters_are_no_pattern_of_what_is_still_to_be_named(here, capsys):
    Path("abc").mkdir()
    Path("abc/rows.jsonl").write_text('{"text": "a b c"}\n')
    assert main(["data", "check", "method=pretrain", f"data.path={UNNAMED}"]) == EXIT_CONFIG
    assert "stands for rows that are still to be named" in capsys.readouterr().err
