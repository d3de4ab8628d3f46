"""Overrides, references, origins, and runs as the start of other runs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from ftcli.build import resume
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Composed, Request, compose
from ftcli.config.group_composition import compose_by_hydra, compose_groups
from ftcli.config.overrides import parse
from ftcli.config.sweep_axes import expand
from ftcli.core import assets
from ftcli.core.errors import ConfigError
from ftcli.core.strict_yaml import Document, load
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec

ROW = '{"text": "a"}\n'
ROOT = load(assets.CONFIGS / "config.yaml")


def composed(*overrides: str) -> Composed:
    return compose(Request(overrides=overrides))


# --- groups ---------------------------------------------------------------------------------------------------------


def files_of(turn: int) -> tuple[dict[str, str], dict[str, Document]]:
    """A choice of each group and its file; turns take the groups' choices one after the other."""
    files = {group: assets.choices(group) for default in ROOT.data["defaults"] for group in default}
    choices = {group: list(found)[turn % len(found)] for group, found in files.items()}
    return choices, {group: load(files[group][choice]) for group, choice in choices.items()}


def test_what_is_kept_of_a_group_is_what_hydra_makes_of_it_in_any_company():
    for turn in (0, 3, 7, 3):
        choices, documents = files_of(turn)
        company, others = files_of(turn + 1)
        for group in list(choices)[turn % 2 :: 2]:
            choices[group], documents[group] = company[group], others[group]
        assert compose_groups(choices, documents, ROOT) == compose_by_hydra(choices, documents, ROOT)


def test_a_group_is_composed_again_when_its_file_has_changed_and_is_nobody_elses_to_change():
    choices, documents = files_of(0)
    documents["train"] = Document("a", {"inside": {"max_steps": 1}})
    compose_groups(choices, documents, ROOT)["train"]["inside"]["max_steps"] = 2
    assert compose_groups(choices, documents, ROOT)["train"] == {"inside": {"max_steps": 1}}
    documents["train"] = Document("a", {"inside": {"max_steps": 3, "ref": "${seed}"}})
    assert compose_groups(choices, documents, ROOT)["train"] == {"inside": {"max_steps": 3, "ref": "${seed}"}}


# --- the grammar ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_a_setting_is_set_with_or_without_a_plus(sign):
    tree = composed(f"{sign}train.weight_decay=0.1", f"{sign}train.logging_steps=3").tree
    assert (tree["train"]["weight_decay"], tree["train"]["logging_steps"]) == (0.1, 3)


def test_a_tilde_removes_a_setting():
    assert "warmup_steps" in composed().tree["train"]
    assert "warmup_steps" not in composed("~train.warmup_steps").tree["train"]
    assert "weight_decay" not in composed("+train.weight_decay=1", "~train.weight_decay").tree["train"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("~train.nothing", "is not set"),
        ("~train.warmup_steps=0.03", "takes no value"),
        ("~method", "a run needs a choice of method"),
        ("train..x=1", "empty name between dots"),
        ("foo", "neither group=choice nor key=value"),
        ("=x", "neither group=choice nor key=value"),
        ("model@train=llama", "uses Hydra's @"),
        ("hydra/launcher=joblib", "uses Hydra's /"),
        ("hydra.run.dir=x", "configures Hydra"),
        ("train.x=[1", "cannot be read"),
        ("method=null", "needs the name of a choice"),
        ("train={learning_rate:1}", "needs the name of a choice"),
        ("method=sft,dpo", "add -m"),
    ],
)
def test_what_is_not_of_the_grammar_is_told_as_typed(problems, here, text, reason):
    [found] = problems(text)
    assert found.startswith(f"{text}  ")
    assert reason in found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.learning_rate=2e-5", 2e-5),
        ("train.learning_rate=1", 1),
        ("run.name='a b'", "a b"),
        ("run.name=1.0.x", "1.0.x"),
        ("train.x=[1,a,null]", [1, "a", None]),
        ("train.x={a:{b:1}}", {"a": {"b": 1}}),
        ("train.x=true", True),
        ("train.x=null", None),
        ("train.x=", ""),
    ],
)
def test_values_are_read_as_hydra_reads_them(text, value):
    read = parse(text).value
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "path",
    [
        "/x/y (1).json", "a=b.json", "a,b.json", "it's.json", 'say "x".json', "[1].json", "{a}.json", "a b.json",
        "~x.json", "${train.learning_rate}.json", "$HOME.json", "a:b.json", "Ünï.json", "a\\b.json", "#1.json",
        "-x.json",
    ],
)  # fmt: skip
def test_paths_on_the_command_line_are_taken_literally(here, path):
    file = Path(path.replace("/x/", ""))
    file.write_text(f"[{ROW}]", encoding="utf-8")
    spec = spec_of(Request(overrides=(f"data.path={file}",)))
    assert spec.data.path == str(here / file)


def test_a_quoted_path_loses_its_quotes_and_null_is_none(here):
    assert parse("data.path='a b.json'").value == "a b.json"
    assert parse('data.eval_path="a,b.json"').value == "a,b.json"
    assert parse("data.eval_path=null").value is None


def test_a_file_may_be_named_by_a_home_that_is_nobodys(problems, here):
    [found] = problems("data.path=~nobody-here/x.json")
    assert "does not exist" in found


def test_very_long_names_are_told_and_not_stumbled_over(problems, here):
    for setting in ("data.path", "model.name_or_path", "run.name", "recipe"):
        [found] = problems(f"{setting}={'x' * 5000}")
        assert len(found) < 2000


# --- sweeps ---------------------------------------------------------------------------------------------------------


def test_a_sweep_is_every_combination():
    assert expand(["method=sft,dpo", "seed=1,2", "peft=lora"]) == [
        ["method=sft", "seed=1", "peft=lora"],
        ["method=sft", "seed=2", "peft=lora"],
        ["method=dpo", "seed=1", "peft=lora"],
        ["method=dpo", "seed=2", "peft=lora"],
    ]


def test_a_sweep_takes_choice_range_and_glob():
    assert expand(["seed=range(1,4)"]) == [["seed=1"], ["seed=2"], ["seed=3"]]
    assert expand(["train.learning_rate=choice(1e-4,2e-4)"]) == [
        ["train.learning_rate=0.0001"], ["train.learning_rate=0.0002"],
    ]  # fmt: skip
    assert expand(["model=glob(smollm-1*)"]) == [["model=smollm-135m-base"], ["model=smollm-135m"]]


@pytest.mark.parametrize("text", ["seed=interval(1,2)", "nothing=glob(*)"])
def test_a_sweep_without_values_is_told(text):
    with pytest.raises(ConfigError, match="without values"):
        expand([text])


def test_lists_and_literal_paths_are_no_sweep():
    words = ["data.path=/x/y (1).json", "peft.target_modules=[q_proj,v_proj]", "run.name='a,b'"]
    assert expand(words) == [words]


# --- references -----------------------------------------------------------------------------------------------------


def test_a_reference_takes_the_value_that_stands_in_the_end():
    tree = composed("train.weight_decay=${train.logging_steps}", "train.logging_steps=7").tree
    assert tree["train"]["weight_decay"] == 7
    assert composed("run.name='x-${seed}'", "seed=5").tree["run"]["name"] == "x-5"


def test_a_reference_finds_a_path_too(here):
    Path("rows.jsonl").write_text(ROW, encoding="utf-8")
    tree = composed("data.path=rows.jsonl", "train.project='${data.path}'").tree
    assert tree["train"]["project"] == "rows.jsonl"


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.learning_rate=${nothing.here}", "which is not set"),
        ("train.learning_rate=${train.learning_rate}", "refers back to it"),
        ("train.learning_rate=${oc.env:HOME}", "calls a resolver"),
        ("run.name='${oc.env:HOME}'", "calls a resolver"),
    ],
)
def test_a_reference_to_nothing_is_told_where_it_was_typed(problems, here, override, reason):
    [found] = problems(override)
    assert found.startswith(override)
    assert reason in found


def test_no_value_is_interpolated_twice(monkeypatch, here):
    monkeypatch.setenv("SECRET", "hunter2")
    # The two halves are innocent, their sum would be a resolver.
    Path("r.yaml").write_text(
        "ftcli: 1\nrun: {name: '$'}\ntrain: {project: '${run.name}{oc.env:SECRET}'}\n", encoding="utf-8"
    )
    tree = composed("recipe=r.yaml").tree
    assert tree["train"]["project"] == "${oc.env:SECRET}"


# --- origins --------------------------------------------------------------------------------------------------------


def test_every_value_knows_who_wrote_it_and_where(here):
    Path("r.yaml").write_text("ftcli: 1\ntrain:\n  logging_steps: 3\n  save_steps: 9\n", encoding="utf-8")
    found = composed("recipe=r.yaml", "train.save_steps=4", "+data.columns.prompt=q")
    by = {key: (found.origin(*key.split(".")).by, found.where(*key.split("."))) for key in (
        "train.logging_steps", "train.save_steps", "train.warmup_steps", "data.columns", "seed")}  # fmt: skip
    assert by["train.logging_steps"] == ("recipe", "r.yaml:3")
    assert by["train.save_steps"] == ("cli", "train.save_steps=4")
    assert by["train.warmup_steps"][0] == "group"
    assert by["train.warmup_steps"][1].startswith("configs/train/default.yaml:")
    assert by["data.columns"] == ("cli", "+data.columns.prompt=q")
    assert by["seed"] == ("group", "configs/config.yaml:10")


def test_a_fault_below_a_setting_is_told_at_the_override_that_caused_it(problems, here):
    assert problems("seed.x=1")[0].startswith("seed.x=1  seed is")
    assert problems("+foo.bar=1")[0].startswith("+foo.bar=1  foo is not a group")
    assert problems("data.columns.prompt=5")[0].startswith("data.columns.prompt=5  data.columns is")


# --- an earlier run as the start of another -------------------------------------------------------------------------


@pytest.fixture
def saved(here):
    """Saves the spec of overrides as run `runs/old/1` and returns that directory."""

    def save(*overrides: str) -> Path:
        run = Path("runs/old/1")
        run.mkdir(parents=True, exist_ok=True)
        (run / rundir.SPEC).write_text(spec_of(Request(overrides=overrides)).to_json(), encoding="utf-8")
        return run

    return save


def test_from_without_overrides_is_the_same_spec_in_a_new_directory(saved):
    run = saved("peft=lora", "train.learning_rate=1e-3", "run.name=mine", "run.dir=runs/old/1")
    old, new = RunSpec.load(run / rundir.SPEC), resume.spec_from(run, Request())
    assert str(new.run.dir).startswith("runs/mine/")
    assert {**json.loads(new.to_json()), "run": None} == {**json.loads(old.to_json()), "run": None}
    named = resume.spec_from(run, Request(overrides=("run.name=other", "run.dir=out")))
    assert (named.run.name, named.run.dir) == ("other", "out")


def test_from_lays_overrides_over_the_saved_spec(saved):
    run = saved("method=dpo", "peft=lora", "peft.r=4", "train.learning_rate=1e-3", "method.beta=0.3")
    spec = resume.spec_from(run, Request(overrides=("train.learning_rate=2e-3",)))
    assert (spec.choices["method"], spec.peft["r"], spec.method["beta"]) == ("dpo", 4, 0.3)
    assert spec.train["learning_rate"] == 2e-3


def test_from_with_another_choice_takes_nothing_over_in_that_group(saved):
    run = saved("method=dpo", "method.beta=0.3", "peft=lora", "peft.r=4")
    spec = resume.spec_from(run, Request(overrides=("method=sft",)))
    assert spec.choices["method"] == "sft"
    assert "beta" not in spec.method
    assert spec.peft["r"] == 4


def test_from_with_another_model_does_not_keep_the_old_ones_shape(saved):
    run = saved("model=llama-1b")
    spec = resume.spec_from(run, Request(overrides=("model.name_or_path=Qwen/Qwen3-8B",)))
    assert spec.model.shape is None


def test_a_saved_spec_is_never_interpolated_again(saved, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    run = saved()
    raw = json.loads((run / rundir.SPEC).read_text(encoding="utf-8"))
    raw["tree"]["model"]["licence"] = "${oc.env:SECRET}"
    (run / rundir.SPEC).write_text(json.dumps(raw), encoding="utf-8")
    spec = resume.spec_from(run, Request(overrides=("train.logging_steps=${train.save_steps}",)))
    assert spec.model.licence == "${oc.env:SECRET}"
    assert spec.train["logging_steps"] == 500


@pytest.mark.parametrize("overrides", [(), ("train.logging_steps=3",)])
def test_a_saved_spec_grants_itself_nothing(saved, overrides):
    run = saved()
    raw = json.loads((run / rundir.SPEC).read_text(encoding="utf-8"))
    raw["grants"] = ["--trust-remote-code"]
    raw["model"]["trust_remote_code"] = raw["tree"]["model"]["trust_remote_code"] = True
    (run / rundir.SPEC).write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(ConfigError, match="grant it on the command line with --trust-remote-code"):
        resume.spec_from(run, Request(overrides=overrides))
    granted = Request(overrides=overrides, grants=frozenset({"--trust-remote-code"}))
    assert resume.spec_from(run, granted).model.trust_remote_code
    with pytest.raises(ConfigError, match="grant it on the command line with --trust-remote-code"):
        resume.resumed_spec(run, [*overrides])
    raw["grants"] = ["--push-to-hub"]
    (run / rundir.SPEC).write_text(json.dumps(raw), encoding="utf-8")
    assert resume.resumed_spec(run, [*overrides], granted.grants).grants == ("--trust-remote-code",)


def test_the_resolved_part_of_a_saved_spec_is_checked_and_not_only_what_was_typed(saved):
    run = saved()
    raw = json.loads((run / rundir.SPEC).read_text(encoding="utf-8"))
    raw["model"]["trust_remote_code"] = True
    raw["train"]["output_dir"] = "/elsewhere"
    raw["train"]["learning_rate"] = "fast"
    (run / rundir.SPEC).write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        resume.spec_from(run, Request())
    assert len(caught.value.problems) == 3
    assert {problem.where for problem in caught.value.problems} == {str(run / rundir.SPEC)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("[]", "not a run spec"),
        ("{", "not a run spec"),
        ('{"schema": 99}', "schema version 99"),
        ('{"schema": 1}', "not a run spec"),
    ],
)
def test_a_damaged_spec_is_told(saved, change, reason):
    run = saved()
    (run / rundir.SPEC).write_text(change, encoding="utf-8")
    for start in (lambda: resume.spec_from(run, Request()), lambda: resume.resumed_spec(run, [])):
        with pytest.raises(ConfigError, match=reason):
            start()


def test_a_spec_of_an_unknown_method_is_told(saved):
    run = saved()
    text = (run / rundir.SPEC).read_text(encoding="utf-8").replace('"method": "sft"', '"method": "evil"')
    (run / rundir.SPEC).write_text(text, encoding="utf-8")
    for start in (lambda: resume.spec_from(run, Request()), lambda: resume.resumed_spec(run, [])):
        with pytest.raises(ConfigError, match="=evil, which this version of ftcli does not have"):
            start()


@pytest.mark.parametrize("name", ["run.name=a/b", "run.name=../x", "run.name=..", "run.score_rows=-1"])
def test_a_new_name_is_checked_like_any(saved, name):
    with pytest.raises(ConfigError):
        resume.spec_from(saved(), Request(overrides=(name,)))


def test_resume_takes_length_and_cadence_only(saved):
    run = saved("train.save_steps=7")
    changes = [
        "train.max_steps=9", "train.save_steps=3", "train.save_total_limit=1",
        "train.logging_steps=1", "train.eval_steps=2", "train.eval_strategy=steps", "train.save_strategy=steps",
    ]  # fmt: skip
    spec = resume.resumed_spec(run, changes)
    assert (spec.train["max_steps"], spec.train["save_steps"], spec.train["eval_strategy"]) == (9, 3, "steps")
    assert spec.tree["train"]["max_steps"] == 9
    assert resume.resumed_spec(run, []).train["save_steps"] == 7
    assert resume.resumed_spec(run, ["train.num_train_epochs=2"]).train["num_train_epochs"] == 2


def test_resume_takes_another_limit_for_a_step(saved):
    run = saved()
    assert resume.resumed_spec(run, []).hardware.step_timeout_seconds == 1800
    assert resume.resumed_spec(run, ["hardware.step_timeout_seconds=7200"]).hardware.step_timeout_seconds == 7200
    assert resume.resumed_spec(run, ["hardware.step_timeout_seconds=null"]).hardware.step_timeout_seconds is None
    with pytest.raises(ConfigError, match=r"hardware\.step_timeout_seconds=0"):
        resume.resumed_spec(run, ["hardware.step_timeout_seconds=0"])


@pytest.mark.parametrize(
    "override",
    ["train.learning_rate=1", "seed=1", "method=dpo", "peft.r=4", "data.path=x", "~train.save_steps", "recipe=demo",
     "model.dtype=float32", "train.per_device_train_batch_size=4", "run.name=x"],
)  # fmt: skip
def test_resume_refuses_anything_else_and_says_how(saved, override):
    with pytest.raises(ConfigError) as caught:
        resume.resumed_spec(saved(), [override])
    [problem] = caught.value.problems
    assert problem.where == override
    assert f"--from runs/old/1 {shlex.quote(override)}" in problem.fix


def test_resume_checks_the_values_it_takes(saved):
    with pytest.raises(ConfigError) as caught:
        resume.resumed_spec(saved(), ["train.max_steps=0", "train.eval_strategy=often", "train.save_steps=[", "seed=1"])
    told = {problem.where for problem in caught.value.problems}
    assert told == {"train.save_steps=[", "seed=1", "train.max_steps=0", "train.eval_strategy=often"}


def test_a_run_is_found_by_its_directory_its_name_and_its_model_folder(saved):
    run = saved().resolve()
    assert rundir.find_run("old") == run
    assert rundir.find_run("runs/old/1") == run
    assert rundir.find_run(str(run / rundir.MODEL)) == run
    assert rundir.find_run("") is None
    assert rundir.find_run("x" * 5000) is None
    with pytest.raises(ConfigError, match="runs here: old"):
        rundir.require_run("older", "--from older")
