"""`ftcli advise` and `ftcli init` as commands: what they print and write, what they refuse, and that the ways train."""

from __future__ import annotations

import json
import os
import shlex

import pytest

from ftcli.config.recipe_file import read
from tests.advise import small_sets
from tests.advise.small_sets import SETS
from tests.scripted_judge import judging

PROOF = bool(os.environ.get("FTCLI_PROOF"))
TRAINED = ("classes", "few_pairs", "thumbs")
"""The sets whose first way is trained in every test; that of all others with FTCLI_PROOF."""
JUDGED = ("bare_prompts", "provoking_prompts")
"""The sets whose first way has the model judge its answers, which the built-in one, no assistant, cannot do: it prefers
the answer that it is shown first, in either order. Another judge is named for it, as the advice says."""
SHORT = ("model=tiny", "hardware.num_threads=1", "train.max_steps=3", "run.score_rows=0")


@pytest.fixture
def rows(tmp_path):
    """A folder with the sets of these tests."""
    small_sets.write(tmp_path, ("letters", "thumbs", "classes"))
    return tmp_path


def trained(name, cwd, ftcli_run, *words, also=()):
    """The first way on a small set, written, and trained for three steps as its last line says; that line.

    Args:
        words: to be typed for the advice.
        also: to be typed for the training.
    """
    small_sets.write(cwd, [name])
    goal = ("--goal", SETS[name].goal) if SETS[name].goal else ()
    done = ftcli_run("init", f"data.path={name}.jsonl", *SHORT, *goal, *words, "--to", "way.yaml", cwd=cwd)
    command = next(line for line in done.stdout.splitlines() if "ftcli train" in line)
    ftcli_run(*shlex.split(command)[1:], *also, "run.dir=run", cwd=cwd)
    assert (cwd / "run" / "result.json").is_file()
    return command


@pytest.mark.parametrize("name", [name for name in SETS if name not in JUDGED] if PROOF else TRAINED)
def test_the_first_way_on_a_small_set_trains(name, tmp_path, ftcli_run):
    trained(name, tmp_path, ftcli_run)


@pytest.mark.parametrize("name", JUDGED if PROOF else JUDGED[:1])
def test_the_first_way_that_judges_trains_with_the_judge_that_the_advice_says_to_name(
    name, tmp_path, ftcli_run, monkeypatch
):
    pytest.importorskip("openai", reason="pip install 'ftcli[endpoint]'")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    short = [
        f"stages.{stage}.make.max_new_tokens=12" for stage in ("answers", "revisions", "sample") if name == JUDGED[1]
    ]
    with judging() as url:
        named = ("judge=openai", "judge.model=shorter", f"judge.base_url={url}")
        command = trained(name, tmp_path, ftcli_run, *named, also=short)
    assert command.endswith("ftcli train recipe=way.yaml --allow-endpoint")
    assert f"# Judge: {' '.join(named)}." in (tmp_path / "way.yaml").read_text(encoding="utf-8")
    made = json.loads((tmp_path / "run" / "judge" / "result.json").read_text(encoding="utf-8"))
    assert made["rows"] > len(SETS[name].rows) / 2
    for line in (tmp_path / "run" / "judge" / "data.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert len(row["chosen"]) <= len(row["rejected"])


def test_advice_prints_rows_goal_and_each_way_with_reason_price_and_recipe(rows, ftcli_run):
    words = ("data.path=letters.jsonl", "hardware.gpu=24GiB", "--goal", "summaries in one style")
    said = ftcli_run("advise", *words, cwd=rows).stdout
    assert "240 prompt-completion pairs (format prompt_completion)" in said
    assert "goal  task: guessed from the word summaries of --goal; other words suggest preferences" in said
    assert "1  method=sft peft=lora model=qwen" in said
    for part in ("why", "gives up", "memory", "time", "sources", "as if the card did 100 teraflops"):
        assert part in said
    assert "write it  ftcli init data.path=letters.jsonl hardware.gpu=24GiB --goal 'summaries in one style'" in said
    assert "   |   path: letters.jsonl" in said


def test_advice_as_json_holds_the_recipes_and_no_more_than_three_ways(rows, ftcli_run):
    done = ftcli_run("advise", "thumbs.jsonl", "hardware.gpu=rtx4090", "--json", cwd=rows)
    found = json.loads(done.stdout)
    assert found["rows"]["kind"] == "label"
    assert found["rows"]["good"] == sum(row["label"] for row in SETS["thumbs"].rows)
    assert 1 <= len(found["ways"]) <= 3
    for rank, way in enumerate(found["ways"], 1):
        assert way["rank"] == rank
        assert way["method"] == "kto"
        assert way["seconds_known"]
        assert 0 < way["memory_gib"] < 0.9 * 24
        (rows / way["file"]).write_text(way["recipe"], encoding="utf-8")
        ftcli_run("check", f"recipe={way['file']}", *way["overrides"], cwd=rows)
        assert shlex.split(way["train"]) == ["ftcli", "train", f"recipe={way['file']}"]


def test_init_writes_the_first_way_commented_and_overwrites_nothing(rows, ftcli_run):
    said = ftcli_run("init", "data.path=letters.jsonl", "model=tiny", cwd=rows).stdout
    file = rows / "sft-lora-tiny.yaml"
    assert said.splitlines()[0] == "written sft-lora-tiny.yaml: method=sft peft=lora model=tiny"
    before = file.read_text(encoding="utf-8")
    assert before.startswith("# a task: method=sft with peft=lora of tiny.   ftcli train recipe=sft-lora-tiny.yaml\n")
    assert "# held-out rows show" in before
    assert read(file).values["data"]["path"] == str(rows / "letters.jsonl")
    for command in said.splitlines()[1:3]:
        ftcli_run(*shlex.split(command)[1:], cwd=rows)
    done = ftcli_run("init", "data.path=letters.jsonl", "model=tiny", cwd=rows, expect=2)
    assert "sft-lora-tiny.yaml exists already" in done.stderr
    assert file.read_text(encoding="utf-8") == before


def test_unusable_rows_are_told_with_the_share_that_skips_them(rows, ftcli_run):
    file = rows / "letters.jsonl"
    file.write_text("no row\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    said = ftcli_run("advise", "data.path=letters.jsonl", "model=tiny", "peft=lora", cwd=rows).stdout
    # one of 241 is 0.00415, rounded up
    assert "1 unusable rows: a run refuses them" in said
    assert (
        "warning   unusable rows: 1, at which a run stops; mend them, or skip them with data.max_bad_share=0.005"
        in said
    )


def test_init_writes_another_way_and_types_rows_that_lie_elsewhere(rows, tmp_path, ftcli_run):
    folder = rows / "elsewhere"
    folder.mkdir()
    words = ("data.path=../letters.jsonl", "hardware.gpu=24GiB", "--way", "2", "--json")
    found = json.loads(ftcli_run("init", *words, cwd=folder).stdout)
    assert found["overrides"] == [f"data.path={rows / 'letters.jsonl'}"]
    assert (
        "data" not in read(folder / found["file"]).values or "path" not in read(folder / found["file"]).values["data"]
    )
    ftcli_run("check", f"recipe={found['file']}", *found["overrides"], cwd=folder)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ((), "names no rows"),
        (("data.path=gone.jsonl",), "gone.jsonl"),
        (("data.path=letters.jsonl", "recipe=demo"), "recipe is not taken here"),
        (("data.path=letters.jsonl", "method=dppo"), "dppo is not a choice of method"),
        (("data.path=letters.jsonl", "judge=openi"), "openi is not a choice of judge"),
        (("data.path=letters.jsonl", "judge=openai"), "an endpoint needs the name of a model"),
        (
            ("data.path=thumbs.jsonl", "judge.model=builtin:tiny"),
            "label rows and the goal preferences with judge.model",
        ),
        (("data.path=letters.jsonl", "method=dpo"), "no method is advised for pair rows"),
        (("data.path=letters.jsonl", "hardware.gpu=rtx9"), "rtx9 is not a known card"),
        (("data.path=letters.jsonl", "train.learning_rat=1"), "train.learning_rat"),
        (("data.path=letters.jsonl", "--hours", "0"), "is no time"),
        (("data.path=letters.jsonl", "--goal", "zzz"), "no word that tells the goal"),
        (("data.path=letters.jsonl", "model=llama-70b", "hardware.gpu=24GiB"), "no way fits"),
        (("data.path=letters.jsonl", "hardware.gpu=24GiB", "--measure"), "runs on this machine"),
        (("data.path=letters.jsonl", "~data.format"), "removes a setting"),
    ],
)
def test_what_advice_cannot_use_is_an_error_with_a_remedy(words, what, rows, ftcli_run):
    done = ftcli_run("advise", *words, cwd=rows, expect=2)
    assert what in done.stderr
    assert "fix: " in done.stderr


def test_measuring_runs_twenty_steps_and_replaces_the_estimates(rows, ftcli_run):
    words = ("data.path=letters.jsonl", "model=tiny", "method=sft", "peft=lora", "hardware.num_threads=1")
    [way] = json.loads(ftcli_run("advise", *words, "--measure", "--json", cwd=rows).stdout)["ways"]
    taken = way["measured"]
    assert "why" not in taken, taken["why"]
    assert taken["steps"] == 20
    assert way["seconds"] == pytest.approx(taken["took"] / 20 * way["steps"])
    assert way["seconds_known"]
    assert way["memory_gib"] == taken["memory_gib"] > 0.1
    assert taken["loss"][0] > taken["loss"][1] > 0
    assert sorted(path.name for path in rows.iterdir()) == ["classes.jsonl", "letters.jsonl", "thumbs.jsonl"]
