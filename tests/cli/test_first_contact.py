"""What a newcomer types first, as real commands: each does what is meant, or is answered with what to type instead."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from ftcli.cli import COMMANDS, listing, main
from ftcli.core import assets
from ftcli.core.strict_yaml import load
from ftcli.methods import all_pipelines
from ftcli.runs import rundir
from ftcli.settings.groups import GROUPS

ROWS = [{"prompt": f"Add {n} and 1.", "completion": str(n + 1)} for n in range(8)]


@pytest.fixture
def typed(capsys, here):
    """Runs a command in this process, in a folder with rows and a recipe; returns its exit code, stdout and stderr."""
    for name in ("rows.jsonl", "more.jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    Path("support.yaml").write_text("ftcli: 1\ndata:\n  path: rows.jsonl\n")
    Path("weights").mkdir()
    Path("weights/config.json").write_text("{}")

    def run(words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(shlex.split(words))
        return (code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("command", ["train --dry-run", "check", "plan", "show"])
@pytest.mark.parametrize(
    ("words", "understood"),
    [
        ("rows.jsonl", "data.path=rows.jsonl"),
        ("rows.jsonl more.jsonl", "data.path=[rows.jsonl,more.jsonl]"),
        ("support.yaml", "support.yaml is recipe=support.yaml"),
        ("demo", "demo is recipe=demo"),
        ("data=rows.jsonl", "data=rows.jsonl is data.path=rows.jsonl"),
        ("rows.jsonl model=Qwen/Qwen3-8B", "model=Qwen/Qwen3-8B is model.name_or_path=Qwen/Qwen3-8B"),
        ("dpo", "dpo is method=dpo"),
    ],
)
def test_a_word_does_what_is_meant_and_is_said(typed, command, words, understood):
    code, out, err = typed(f"{command} {words}")
    assert code == 0, err
    assert understood in err.splitlines()
    if "rows.jsonl" in understood and command != "show":
        assert "rows.jsonl" in out


def test_check_names_the_model_and_the_rows_that_are_read(typed):
    _, out, _ = typed("check rows.jsonl model=./weights data.eval_share=0.25")
    lines = dict(line.strip().split("  ", 1) for line in out.splitlines()[1:])
    assert {name: text.strip() for name, text in lines.items()} == {
        "model": str(Path("weights").resolve()),
        "rows": str(Path("rows.jsonl").resolve()),
        "held out": "0.25 of the rows",
    }
    data = json.loads(typed("check rows.jsonl more.jsonl --json")[1])
    names = ", ".join(str(Path(name).resolve()) for name in ("rows.jsonl", "more.jsonl"))
    assert data["reads"]["rows"] == names
    assert "rows builtin:manners" in typed("check method=rlhf")[1]


@pytest.mark.parametrize("command", ["check", "show"])
def test_no_choice_is_named_that_another_model_or_other_rows_stand_in_for(typed, command):
    def named(words: str) -> dict[str, str]:
        line = typed(f"{command} {words}")[1].splitlines()[0]
        return dict(re.findall(r"(\w+)=(\{.*?\}|\S+)", line))

    rows, weights = str(Path("rows.jsonl").resolve()), str(Path("weights").resolve())
    own = named("rows.jsonl model=./weights")
    assert (own["model"], own["data"], own["peft"]) == (weights, rows, "none")
    assert (named("rows.jsonl")["model"], named("rows.jsonl")["data"]) == ("tiny", rows)
    assert (named("")["model"], named("")["data"]) == ("tiny", "tiny")
    assert named("model=llama rows.jsonl")["model"] == "llama"
    assert named("model=llama model.name_or_path=./weights rows.jsonl")["model"] == weights
    mixed = named("data.mix.sums.path=rows.jsonl data.mix.more.path=more.jsonl")
    assert mixed["data"] == "{mix: sums, more}"


def test_training_without_a_word_says_first_that_it_is_a_demonstration(typed):
    _, _, err = typed("train --dry-run")
    first, second = err.splitlines()[:2]
    assert first.startswith("a demonstration")
    assert "ftcli train rows.jsonl" in second
    choices = {
        group: choice
        for entry in load(assets.CONFIGS / "config.yaml").data["defaults"]
        for group, choice in entry.items()
    }
    assert f"method={choices['method']} of the built-in {choices['model']} model" in first
    assert "demonstration" not in typed("train --dry-run rows.jsonl")[2]


def test_settings_with_dashes_are_answered_with_key_value(typed):
    code, _, err = typed("train --learning_rate 1e-5 --data.path rows.jsonl --model qwen --num-epochs=3 --epochs 3")
    assert code == 2
    for setting in ("learning_rate=1e-5", "num_train_epochs=3"):
        assert f"fix: train.{setting}" in err
    assert "fix: data.path=rows.jsonl" in err
    assert "fix: model=qwen" in err
    assert "key=value" in err


def test_a_configuration_of_another_tool_is_answered_key_by_key(typed):
    Path("theirs.yaml").write_text(
        "base_model: x/y\ndatasets:\n  - path: rows.jsonl\n    type: alpaca\nlearning_rate: 1e-5\nmicro_batch_size: 2\n"
    )
    code, _, err = typed("check theirs.yaml")
    assert code == 2
    assert "a configuration of Axolotl" in err
    for line, setting in ((1, "model.name_or_path"), (3, "data.path"), (4, "method=sft"), (5, "train.learning_rate"),
                          (6, "train.per_device_train_batch_size")):  # fmt: skip
        assert re.search(rf"theirs\.yaml:{line}  .*\n  fix: {re.escape(setting)}", err), err


@pytest.mark.parametrize("kind", listing.KINDS)
def test_every_list_answers_in_singular_and_plural(typed, kind):
    one, many = typed(f"list {kind}"), typed(f"list {kind}s")
    assert one == many
    assert one[0] == 0


def test_runs_are_listed(typed):
    place = rundir.ROOT / "sft-tiny" / "1"
    place.mkdir(parents=True)
    (place / rundir.SPEC).write_text("{}")
    assert f"  {place}  not finished" in typed("list runs")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_on_a_command_is_its_own(typed, command):
    assert typed(f"help {command}") == typed(f"{command} --help")


@pytest.mark.parametrize(
    ("words", "remedy"), [("help trian", "ftcli help train"), ("help train plan", "ftcli help train")]
)
def test_help_on_nothing_or_on_two_things_is_refused(typed, words, remedy):
    code, _, err = typed(words)
    assert code == 2
    assert remedy in err


def _choices() -> list[str]:
    return [f"{group} {group}={choice}" for group in GROUPS for choice in assets.choices(group) if choice != "none"]


@pytest.mark.parametrize("words", [*_choices(), "quantisation quantisation=none"])
def test_show_answers_for_every_choice_of_every_group(typed, words):
    code, out, err = typed(f"show {words}")
    assert (code, err) == (0, "")
    assert out.strip() or words.startswith("peft peft=other")
    for pipeline in all_pipelines().values():
        if words.endswith(f"={pipeline.name}"):
            assert all(stage.name in out for stage in pipeline.stages)


@pytest.mark.parametrize(
    "words",
    [
        "report a b", "eval a b", "chat a b", "merge a b", "recipe show demo b", "score a b c", "sample a b c",
        "help train b", "check rows.jsonl foo", "data check rows.jsonl foo", "plan demo support.yaml",
        "train recipe=demo recipe=sft-lora-8b", "list model foo",
    ],
)  # fmt: skip
def test_a_second_word_is_never_dropped(typed, words):
    code, _, err = typed(words)
    assert code == 2
    assert "fix: " in err


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ftcli train ro", "rows.jsonl"),
        ("ftcli train sup", "support.yaml"),
        ("ftcli train data.path=mo", "data.path=more.jsonl"),
        ("ftcli data check ro", "rows.jsonl"),
        ("ftcli data pre", "preview"),
        ("ftcli report sft", "sft-tiny"),
        ("ftcli chat runs/sft", "runs/sft-tiny/1"),
        ("ftcli train --resume runs/sft", "runs/sft-tiny/1"),
        ("ftcli train --dry", "--dry-run"),
        ("ftcli merge run --to", "--to"),
        ("ftcli eval runs/sft-tiny/1 --ro", "--rows"),
        ("ftcli list mod", "model"),
        ("ftcli help tra", "train"),
    ],
)
def test_the_shell_is_offered_runs_files_and_flags(typed, line, offered):
    place = rundir.ROOT / "sft-tiny" / "1"
    place.mkdir(parents=True)
    (place / rundir.SPEC).write_text("{}")
    assert offered in typed(f"completion words '{line}'")[1].splitlines()


def test_commands_to_run_next_can_be_typed_whatever_the_directory_is_called(here):
    from ftcli.build.resolve import spec_of
    from ftcli.cli.render.summary import next_commands
    from ftcli.config.compose import Request

    odd = Path("out put/läuft (1), a=b")
    odd.mkdir(parents=True)
    spec = spec_of(Request(overrides=("peft=lora", f"run.dir={odd}")))
    (odd / rundir.SPEC).write_text(spec.to_json())
    for command in next_commands(odd):
        assert any(word in (str(odd), f"model.name_or_path={odd}") for word in shlex.split(command)), command


def test_a_command_to_run_next_has_the_flags_without_which_it_would_be_refused(here):
    from ftcli.build import gate
    from ftcli.build.resolve import spec_of
    from ftcli.cli.render.summary import next_commands
    from ftcli.config.compose import Request
    from ftcli.settings.ownership import REWARD_CODE

    Path("mine.py").write_text("def short(completions, **columns):\n    return [1.0 for _ in completions]\n")
    own = "method.reward_functions={mine.py:short: 1}"
    for words, flags in (((), []), ((own,), [REWARD_CODE])):
        run = Path(f"run{len(words)}")
        run.mkdir()
        spec = spec_of(Request(overrides=("method=grpo", "method.rewards.ended=1", *words, f"run.dir={run}")))
        (run / rundir.SPEC).write_text(spec.to_json())
        assert gate.flags_needed(gate.opened(run), gate.MEASURES) == flags
        assert " ".join(["ftcli eval", str(run), *flags]) in next_commands(run)
