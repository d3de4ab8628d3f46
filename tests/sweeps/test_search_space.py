"""What a search varies, and how it is told: the space in a recipe, the words, the settings, the names of the jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.config.sweep_axes import Range, Values, as_typed, axes
from ftcli.core.errors import ConfigError
from ftcli.sweeps.job_names import job_name, short_keys
from ftcli.sweeps.search_space import merged, samples
from ftcli.sweeps.sweep_request import requested

RECIPE = """\
# A search.
ftcli: 1
defaults:
  - model: tiny
sweep:
  trials: 4
  space:
    peft: [none, lora]
    train.max_steps: {low: 2, high: 8, step: 2}
    train.learning_rate: {low: 1e-5, high: 1e-3, log: true}
"""


def test_a_recipe_and_the_command_line_say_what_varies(here: Path):
    Path("r.yaml").write_text(RECIPE, encoding="utf-8")
    words = ["recipe=r.yaml", "seed=1", "train.max_steps=4", "train.learning_rate=interval(1e-4,1)", "sweep.trials=9"]
    wanted = requested(words, Request(), search=True)
    assert wanted.space == [Values("peft", ("none", "lora")), Range("train.learning_rate", 1e-4, 1.0)]
    assert wanted.request.overrides == ("recipe=r.yaml", "seed=1", "train.max_steps=4", "~sweep")
    assert (wanted.settings.trials, wanted.settings.measure, wanted.settings.prunes_by) == (9, "eval_loss", "median")
    assert requested(["recipe=r.yaml"], Request(), search=True).space[1] == Range("train.max_steps", 2, 8, step=2)


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("a=interval(1e-5,1e-3)", Range("a", 1e-5, 1e-3)),
        ("a=tag(log,interval(1,100))", Range("a", 1.0, 100.0, log=True)),
        ("a=int(interval(1,8))", Range("a", 1, 8)),
        ("a=range(1,4)", Values("a", ("1", "2", "3"))),
        ("a=choice(x,'y,z')", Values("a", ("x", "'y,z'"))),
        ("a=[1,2],[3]", Values("a", ("[1,2]", "[3]"))),
        ("a=[1,2]", "a=[1,2]"),
    ],
)
def test_axes_are_typed_in_hydras_grammar(text, axis):
    assert axes([text]) == [axis]


@pytest.mark.parametrize("value", [1, 1e-5, True, None, "x", "a,b", "it's", "1", [1, "q"], {"a": 1}])
def test_a_value_of_a_file_means_the_same_when_it_is_typed(value):
    from ftcli.config.overrides import parse

    found = parse(f"train.x={as_typed('train.x', value)}").value
    assert (found, type(found)) == (value, type(value))


SPACES = [
    ("model.name_or_path: [a, b]", "is a path, which a recipe may not vary"),
    ("data.path: [/etc/passwd]", "is a path, which a recipe may not vary"),
    ("run.dir: [a, b]", "is nothing that a search varies"),
    ("hydra.run: [a, b]", "configures Hydra"),
    ("recipe: [a, b]", "is nothing that a search varies"),
    ("train.learning_rate: 1e-3", "is neither a list of values nor a range"),
    ("train.learning_rate: {low: 1}", "is neither a list of values nor a range"),
    ("train.learning_rate: {low: 2, high: 1}", "which holds nothing"),
    ("train.learning_rate: {low: 0, high: 1, log: true}", "is drawn by size"),
    ("train.learning_rate: {low: a, high: b}", "something else than numbers"),
    ("train.learning_rate: {low: 1, high: .inf}", "without an end"),
    ("train.learning_rate: {low: 1, high: 2, log: maybe}", "has log: 'maybe'"),
    ("train.learning_rate: {low: 1, high: 2, step: 0}", "has the step 0"),
    ("train.learning_rate: {low: 1, high: 2, step: 1, log: true}", "both log and step"),
    ("peft: [lora, lora]", "lists a value twice"),
]


@pytest.mark.parametrize(("line", "what"), SPACES)
def test_a_space_that_is_none_is_told(line, what, here: Path):
    Path("r.yaml").write_text(f"# x\nftcli: 1\nsweep:\n  space:\n    {line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=what):
        requested(["recipe=r.yaml"], Request(), search=True)


def test_a_fault_in_a_space_has_its_line(here: Path):
    Path("r.yaml").write_text("# x\nftcli: 1\nsweep:\n  trials: 0\n  space:\n    run.dir: [a]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        requested(["recipe=r.yaml"], Request(), search=True)
    assert error.value.problems[0].where == "r.yaml:4"
    Path("r.yaml").write_text("# x\nftcli: 1\nsweep:\n  space:\n    run.dir: [a]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        requested(["recipe=r.yaml"], Request(), search=True)
    assert error.value.problems[0].where == "r.yaml:5"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["sweep.trails=3"], "sweep.trails is not a setting"),
        (["sweep.trials=0"], "sweep.trials is 0"),
        (["sweep.sampler=best"], "sweep.sampler is 'best'"),
        (["sweep.measure=score", "sweep.pruner=median"], "prunes by the held-out loss"),
        (["sweep.sampler=random", "sweep.pruner=none", "sweep.startup_trials=3"], "has no effect"),
        (["sweep.space.seed=3"], "is written in a recipe"),
        (["run.dir=a,b"], "is the same for all jobs"),
        (["seed=3,4", "seed=5"], "is given twice"),
        ([], "nothing to search"),
    ],
)
def test_words_that_a_search_cannot_use_are_refused(words, what):
    varied = [] if not words or words[0].startswith("seed") else ["seed=range(1,9)"]
    with pytest.raises(ConfigError, match=what):
        requested([*words, *varied], Request(), search=True)


def test_what_only_a_search_reads_is_refused_of_a_sweep_over_every_combination():
    with pytest.raises(ConfigError, match="is read only by ftcli sweep"):
        requested(["seed=1,2", "sweep.trials=3"], Request(), search=False)
    assert requested(["seed=1,2", "sweep.jobs=3"], Request(), search=False).settings.jobs == 3


def test_a_single_run_reads_no_search_space_unless_it_is_left_out(here: Path, capsys):
    Path("r.yaml").write_text(RECIPE, encoding="utf-8")
    for words in (["check", "recipe=r.yaml"], ["train", "-m", "recipe=r.yaml", "seed=1,2", "--dry-run"]):
        assert main(words) == 2
        assert "r.yaml:5  a single run reads no search space\n  fix: ftcli sweep recipe=" in capsys.readouterr().err
    assert main(["check", "sweep.jobs=2"]) == 2
    assert "says how several runs are made, and this is one" in capsys.readouterr().err
    assert main(["check", "recipe=r.yaml", "~sweep"]) == 0
    assert main(["check", "recipe=demo", "~sweep"]) == 2
    assert "has no search space to leave out" in capsys.readouterr().err


def test_what_a_recipe_varies_needs_the_flags_that_a_file_needs(here: Path, capsys):
    pytest.importorskip("optuna", reason="pip install 'ftcli[sweep]'")
    space = "# x\nftcli: 1\nsweep:\n  space:\n    train.push_to_hub: [true]\n"
    Path("r.yaml").write_text(space, encoding="utf-8")
    words = [
        "sweep",
        "recipe=r.yaml",
        "data.eval_share=0.1",
        "--dry-run",
        "train.hub_model_id=me/x",
        "train.hub_strategy=end",
    ]
    assert main(words) == 2
    assert "--push-to-hub" in capsys.readouterr().err


def test_the_space_is_checked_at_each_value_and_end_before_anything_starts(here: Path, capsys):
    pytest.importorskip("optuna", reason="pip install 'ftcli[sweep]'")
    points = list(samples([Values("peft", ("none", "lora", "dora")), Range("train.max_steps", 2, 8)]))
    assert points == [
        {"peft": "none", "train.max_steps": "2"},
        {"peft": "lora", "train.max_steps": "8"},
        {"peft": "dora", "train.max_steps": "8"},
    ]
    words = ["sweep", "model=tiny", "peft=none,lora,nothing", "train.max_steps=int(interval(-3,5))", "run.dir=s"]
    assert main([*words, "data.eval_share=0.1"]) == 2
    err = capsys.readouterr().err
    assert "nothing is not a choice of peft" in err
    assert "train.max_steps=-3" in err
    assert not Path("s").exists()


def test_a_search_without_a_measure_is_refused(here: Path, capsys):
    pytest.importorskip("optuna", reason="pip install 'ftcli[sweep]'")
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4, encoding="utf-8")
    words = ["sweep", "model=tiny", "data.path=rows.jsonl", "seed=1,2"]
    assert main(words) == 2
    assert "there are no held-out rows" in capsys.readouterr().err
    assert main([*words, "data.eval_share=0.5", "sweep.measure=score", "run.score_rows=0"]) == 2
    assert "nothing is scored" in capsys.readouterr().err
    assert main([*words, "data.eval_share=0.5", "--dry-run"]) == 0


def test_a_fixed_value_takes_a_setting_out_of_the_space():
    of_recipe = [Values("seed", ("1", "2")), Values("peft", ("none", "lora"))]
    assert merged(of_recipe, [], ["peft=dora"]) == of_recipe[:1]


def test_a_job_is_named_by_what_varied():
    assert (
        job_name({"train.learning_rate": "0.00012520653814999459", "peft.r": "8"}, []) == "learning_rate-0.0001252_r-8"
    )
    assert job_name({"data.path": "a b/c,d.jsonl", "peft": "lora"}, []) == "path-a-b-c-d.jsonl_peft-lora"
    assert job_name({"seed": "1"}, ["seed-1", "seed-1-2"]) == "seed-1-3"
    assert job_name({}, []) == "job"
    assert len(job_name({"model.name_or_path": "x" * 300}, [])) == 100
    assert short_keys(["stages.sft.train.seed", "stages.dpo.train.seed", "peft.r"]) == {
        "stages.sft.train.seed": "sft.train.seed",
        "stages.dpo.train.seed": "dpo.train.seed",
        "peft.r": "r",
    }
