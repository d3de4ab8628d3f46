"""A pipeline before it runs: one spec a stage, each told of by its name, with stand-ins for models yet to be made."""

from __future__ import annotations

import fcntl
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.build.resolve import spec_of
from ftcli.cli import check, plan, report, show, train
from ftcli.config.compose import Request
from ftcli.core.errors import CheckpointError, ConfigError
from ftcli.methods import all_methods, all_pipelines
from ftcli.pipelines import pipeline_dir, stage_loop, synthesis_stage
from ftcli.pipelines.pipeline_request import PipelineRequest, pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.pipelines.stages import PipelineSpec, ReadyStage, SynthesisStage
from ftcli.runs import rundir
from ftcli.settings.backends import ROLES
from ftcli.settings.run_spec import RunSpec
from ftcli.synthesis.tasks import SETTINGS
from tests.whole.conftest import everything


def specs(*overrides: str, **request: Any) -> dict[str, RunSpec]:
    """The spec of each stage that runs."""
    return {name: run.spec for name, run in whole(*overrides, **request).runs().items()}


def whole(*overrides: str, **request: Any) -> PipelineSpec:
    """The pipeline that overrides ask for."""
    wanted = pipeline_request(Request(overrides=("method=rlhf", *overrides), **request))
    assert wanted is not None
    return pipeline_spec(wanted)


def faults(*overrides: str) -> list[str]:
    """What is wrong with a pipeline, as text."""
    with pytest.raises(ConfigError) as error:
        whole(*overrides)
    return [str(problem) for problem in error.value.problems]


def model_folder(path: Path, head: str = "CAUSAL_LM") -> Path:
    """A folder that looks like a trained adapter on the built-in model."""
    path.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tiny.MODEL_DIR), "task_type": head}
    rundir.write_json(path / "adapter_config.json", config)
    return path


def finished_stage(folder: Path, name: str, wanted: PipelineRequest, models: dict[str, str], title: str) -> None:
    """A stage's directory as a finished run leaves it, without weights."""
    stage = wanted.pipeline.stage(name)
    spec = pipeline_dir.run_spec(stage, wanted, models, folder, title)
    run = folder / name
    head = "SEQ_CLS" if all_methods()[stage.method].head == "reward_model" else "CAUSAL_LM"
    model_folder(run / rundir.MODEL, head)
    rundir.write_atomically(run / rundir.SPEC, spec.to_json())
    rundir.write_json(run / rundir.RESULT, {"seconds": 1.0})
    state = rundir.read_pipeline(folder)
    state["stages"][name]["rows"] = pipeline_dir.row_fingerprints(spec)
    rundir.write_json(folder / rundir.PIPELINE, state)


@pytest.fixture
def half_done(here: Path) -> Path:
    """A pipeline whose first two stages are finished."""
    spec = whole("run.dir=p")
    folder = pipeline_dir.create(spec, ["train", "method=rlhf"])
    models: dict[str, str] = {}
    for name in ("sft", "reward"):
        wanted, title = pipeline_dir.load_request(folder, Request())
        finished_stage(folder, name, wanted, models, title)
        models[name] = str(folder / name)
    return folder


def test_every_stage_is_a_run_of_its_own_in_one_folder(here):
    found = specs("run.dir=p", "seed=7")
    assert {name: spec.choices["method"] for name, spec in found.items()} == {
        "sft": "sft", "reward": "reward", "ppo": "ppo",
    }  # fmt: skip
    assert [spec.run.dir for spec in found.values()] == ["p/sft", "p/reward", "p/ppo"]
    assert {spec.seed for spec in found.values()} == {7}


def test_a_setting_holds_for_all_stages_unless_one_says_otherwise(here):
    found = specs("stages.ppo.train.weight_decay=0.3", "train.weight_decay=0.1", "peft=lora", "stages.reward.peft=none")
    assert {name: spec.train["weight_decay"] for name, spec in found.items()} == {"sft": 0.1, "reward": 0.1, "ppo": 0.3}
    assert {name: spec.peft["name"] for name, spec in found.items()} == {"sft": "lora", "reward": "none", "ppo": "lora"}


def test_what_suits_the_built_in_model_is_set_for_it_alone_and_never_over_what_was_said(here):
    assert specs()["sft"].train["learning_rate"] == 1e-3
    assert specs("train.learning_rate=2e-4")["sft"].train["learning_rate"] == 2e-4
    assert specs("stages.sft.data.path=builtin:instructions")["sft"].data.path == "builtin:instructions"
    large = specs("model=llama", "model.name_or_path=meta-llama/Llama-3.1-8B-Instruct")
    assert large["sft"].train["learning_rate"] == all_methods()["sft"].training.full.at(8_000_000_000).value
    assert large["sft"].data.path == "builtin:tiny"


def test_a_model_that_stands_in_a_stages_place_feeds_the_others(here):
    judge = model_folder(here / "judge", "SEQ_CLS")
    found = specs("stages.reward.model=judge")
    assert list(found) == ["sft", "ppo"]
    assert found["ppo"].method["reward_model"] == str(judge)


def test_a_model_in_a_stages_place_whose_base_is_gone_starts_nothing(here):
    config = {"peft_type": "LORA", "base_model_name_or_path": str(here / "gone"), "task_type": "SEQ_CLS"}
    rundir.write_json(model_folder(here / "judge", "SEQ_CLS") / "adapter_config.json", config)
    with pytest.raises(ConfigError, match="the base model of its adapter is not here"):
        train.run(["method=rlhf", "stages.reward.model=judge", "run.dir=p"])
    assert not (here / "p").exists()


def test_a_stage_may_start_from_a_model_of_its_own(here):
    own = model_folder(here / "own")
    found = specs("stages.reward.model.name_or_path=own")
    assert found["reward"].model.name_or_path == str(own)
    assert found["ppo"].model.name_or_path != str(own)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.reword.seed=1", "did you mean stages.reward"),
        ("method.kl_coef=0.1", "set stages.ppo.method.kl_coef"),
        ("stages.ppo.method.kl_coeff=0.1", "fix: stages.ppo.method.kl_coef=0.1"),
        ("stages.ppo.method.kl_coeif=0.1", "did you mean stages.ppo.method.kl_coef?"),
        ("stages.ppo.train.lerning_rate=1", "did you mean stages.ppo.train.learning_rate?"),
        ("stages.reward.model=llama-1b", "set stages.reward.model.name_or_path"),
        ("stages.reward.model=nowhere/at/all/really", "no model"),
        ("stages.reward.model=words", "words is a causal LM, not a reward model"),
        ("stages.sft.peft=prefix", "stage reward would have to merge it"),
        ("stages.sft.data.path=missing.jsonl", "missing.jsonl"),
        ("stages.ppo.data.streaming=true", "a stream has no known length"),
    ],
)
def test_each_mistake_is_told_once_with_a_remedy(override, told, here):
    model_folder(here / "words")
    found = faults(override)
    assert any(told in problem for problem in found), found
    assert len(set(found)) == len(found)


def test_a_mistake_of_every_stage_is_told_once_and_one_of_some_names_them(here):
    [everywhere] = faults("train.lerning_rate=1")
    assert everywhere.startswith("train.lerning_rate=1  train.lerning_rate is not an option")
    [some] = [problem for problem in faults("data.path=missing.jsonl") if "missing.jsonl" in problem]
    assert "(stage" not in some


def test_a_stage_with_a_model_in_its_place_takes_no_settings(here):
    model_folder(here / "judge", "SEQ_CLS")
    [told] = faults("stages.reward.model=judge", "stages.reward.seed=1")
    assert "stage reward does not run, because judge is reused for it" in told


def test_a_recipe_says_of_each_stage_what_it_would_say_of_a_run(here):
    model_folder(here / "judge", "SEQ_CLS")
    (here / "r.yaml").write_text(
        "ftcli: 1\ndefaults:\n  - method: rlhf\ntrain:\n  weight_decay: 0.2\nstages:\n"
        "  sft:\n    defaults:\n      - peft: lora\n    peft:\n      r: 4\n  reward:\n    model: judge\n"
        "  ppo:\n    method:\n      kl_coef: 0.3\n    train:\n      weight_decay: 0.4\n",
        encoding="utf-8",
    )
    wanted = pipeline_request(Request(overrides=("recipe=r.yaml", "stages.sft.peft.r=8")))
    assert wanted is not None
    spec = pipeline_spec(wanted)
    found = {name: run.spec for name, run in spec.runs().items()}
    assert list(found) == ["sft", "ppo"]
    assert found["sft"].peft["r"] == 8
    assert found["ppo"].peft["name"] == "none"
    assert [each.train["weight_decay"] for each in found.values()] == [0.2, 0.4]
    assert found["ppo"].method["kl_coef"] == 0.3


@pytest.mark.parametrize(
    ("lines", "line", "told"),
    [
        ("stages:\n  ppo:\n    train:\n      lerning_rate: 1\n", 7, "did you mean train.learning_rate"),
        ("stages:\n  pppo:\n    seed: 1\n", 5, "pppo is not a stage"),
        ("stages:\n  ppo:\n    model: ../judge\n", 6, "points outside the recipe's folder"),
        ("stages:\n  ppo:\n    data:\n      path: /etc/rows.jsonl\n", 7, "points outside the recipe's folder"),
        ("stages:\n  ppo: 3\n", 5, "ppo holds no settings"),
        ("stages:\n  ppo:\n    trane:\n      x: 1\n", 6, "trane is not a key"),
        ("method:\n  kl_coef: 0.1\n", 5, "set stages.ppo.method.kl_coef"),
        ("stages:\n  ppo:\n    method:\n      _target_: os.system\n", 7, "configures Hydra"),
    ],
)
def test_a_fault_in_a_stage_of_a_recipe_is_told_with_its_line(lines, line, told, here):
    (here / "r.yaml").write_text(f"ftcli: 1\ndefaults:\n  - method: rlhf\n{lines}", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        pipeline_spec(pipeline_request(Request(overrides=("recipe=r.yaml",))))  # type: ignore[arg-type]
    [found] = map(str, error.value.problems)
    assert found.startswith(f"r.yaml:{line}"), found
    assert told in found


def test_stages_without_a_pipeline_are_refused(here, problems):
    assert "only a pipeline has" in problems("stages.ppo.seed=1")[0]
    (here / "r.yaml").write_text("ftcli: 1\nstages:\n  ppo:\n    seed: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="only a pipeline has stages"):
        pipeline_request(Request(overrides=("recipe=r.yaml",)))


def test_a_command_that_takes_one_run_names_the_methods_of_the_stages(problems):
    [told] = problems("method=rlhf")
    assert "method=sft or method=reward or method=ppo" in told


def test_the_commands_show_every_stage(here, capsys):
    assert plan.run(["method=rlhf"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("rlhf: sft → reward (from sft) → ppo (from sft, reward)\n")
    for words in ("stage sft", "stage reward", "stage ppo", "memory", "FLOP"):
        assert words in printed
    assert plan.run(["method=rlhf", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stages, total = found["stages"], found["total"]
    assert f"{sum(each['steps'] for each in stages)} steps in total" in printed
    most = max(stages, key=lambda each: each["memory"]["total_gib"])
    assert (total["memory_gib"], total["memory_of"]) == (most["memory"]["total_gib"], most["stage"])
    assert f"at most {total['memory_gib']:.2f} GiB per process (stage {most['stage']})" in printed
    assert total["flops"] == pytest.approx(sum(each["flops"] for each in stages))
    assert total["seconds"] is None  # the rate of a CPU is not known
    assert stages[2]["takes"] == {"model.name_or_path": "sft", "method.reward_model": "reward"}
    assert check.run(["method=rlhf"]) == 0
    assert "no problems: method=rlhf" in capsys.readouterr().out
    assert show.run(["method=rlhf"]) == 0
    assert capsys.readouterr().out.count("# stage ") == 3
    assert train.run(["method=rlhf", "--dry-run"]) == 0
    assert not list(here.iterdir())


def test_a_pipeline_goes_on_with_what_it_was_asked_for(half_done):
    wanted, name = pipeline_dir.load_request(half_done, Request())
    models = {stage: str(half_done / stage) for stage in ("sft", "reward")}
    spec = pipeline_dir.run_spec(wanted.pipeline.stage("ppo"), wanted, models, half_done, name)
    assert spec.model.name_or_path == str(half_done / "sft" / "model")
    assert spec.method["reward_model"] == str(half_done / "reward" / "model")
    assert spec.run.dir == str(half_done / "ppo")
    assert spec.train["learning_rate"] == 1e-4


def test_a_stage_that_is_yet_to_run_trains_as_it_was_planned_whatever_the_defaults_are_now(half_done):
    def of_stage(name: str, wanted: PipelineRequest) -> RunSpec:
        models = {stage: str(half_done / stage) for stage in ("sft", "reward")}
        return pipeline_dir.run_spec(wanted.pipeline.stage(name), wanted, models, half_done, "again")

    wanted, _ = pipeline_dir.load_request(half_done, Request())
    assert wanted.earlier is not None
    entry = wanted.earlier["ppo"]
    assert entry["resolved"]["method"]["value_learning_rate"] == of_stage("ppo", wanted).method["value_learning_rate"]
    assert of_stage("ppo", wanted).method["value_learning_rate"] == 1e-3
    planned = {"train": {"lr_scheduler_type": "linear"}, "method": {"name": "ppo", "value_learning_rate": 7e-4}}
    other = replace(wanted, earlier={**wanted.earlier, "ppo": {**entry, "resolved": planned}})
    assert of_stage("ppo", other).method["value_learning_rate"] == 7e-4
    assert of_stage("ppo", other).train["lr_scheduler_type"] == "linear"
    before = {key: value for key, value in entry.items() if key != "resolved"}  # a version whose critics had no rate
    older = replace(wanted, earlier={**wanted.earlier, "ppo": before})
    assert of_stage("ppo", older).method["value_learning_rate"] == 1e-4  # the policy's


def test_stages_that_would_come_out_the_same_are_taken_over_and_others_are_not(half_done, monkeypatch):
    def kept(*overrides: str) -> list[str]:
        wanted, name = pipeline_dir.load_request(half_done, Request(overrides=overrides))
        return list(pipeline_dir.reusable_stages(half_done, wanted, half_done.parent / "new", name))

    assert kept("stages.ppo.method.kl_coef=0.5") == ["sft", "reward"]
    assert kept("stages.reward.train.learning_rate=5e-5") == ["sft"]
    assert kept("stages.sft.seed=1") == []
    assert kept("train.weight_decay=0.1") == []
    monkeypatch.setattr(pipeline_dir, "row_fingerprints", lambda spec: {"data.path:rows": "others"})
    assert kept("stages.ppo.method.kl_coef=0.5") == []


def test_going_on_takes_changes_only_where_nothing_was_trained_yet(half_done):
    def change(*overrides: str) -> Any:
        wanted, _ = pipeline_dir.load_request(half_done, Request(overrides=overrides))
        state = stage_loop.state_with_overrides(half_done, wanted)
        return state["stages"]["ppo"]["tree"]

    before = (half_done / rundir.PIPELINE).read_bytes()

    assert change("stages.ppo.method.kl_coef=0.5")["method"]["kl_coef"] == 0.5
    for override, told in (
        ("stages.sft.train.max_steps=3", "stage sft is finished"),
        ("train.max_steps=3", "applies to every stage"),
        ("stages.ppo.method.kl_coeff=1", "kl_coeff is not an option"),
    ):
        with pytest.raises(ConfigError, match=told):
            change(override)
    assert (half_done / rundir.PIPELINE).read_bytes() == before, "what is only worked out is not yet written"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.ppo.train.max_steps=3", "in use by another process"),
        ("stages.ppo.train.max_steps=3", "no valid checkpoint"),
        ("stages.ppo.train.max_steps=3", "holds no model"),
        ("stages.ppo.model.name_or_path=some/model", "HF_HUB_OFFLINE"),
    ],
)
def test_a_pipeline_that_cannot_go_on_is_left_as_it_is(override, told, half_done):
    wanted, title = pipeline_dir.load_request(half_done, Request())
    models = {name: str(half_done / name) for name in ("sft", "reward")}
    ppo = half_done / "ppo"
    if "HF_HUB" not in told:
        spec = pipeline_dir.run_spec(wanted.pipeline.stage("ppo"), wanted, models, half_done, title)
        (ppo / rundir.CHECKPOINTS).mkdir(parents=True)
        rundir.write_atomically(ppo / rundir.SPEC, spec.to_json())
    if "checkpoint" in told:
        (ppo / rundir.CHECKPOINTS / "checkpoint-2").mkdir()
    if "holds no" in told:
        shutil.rmtree(half_done / "sft" / rundir.MODEL)
    rundir.write_json(half_done / rundir.RESULT, {"stages": {}})
    with open((ppo if ppo.is_dir() else half_done) / rundir.LOCK, "a") as lock:
        if "in use" in told:
            fcntl.flock(lock, fcntl.LOCK_EX)
        before = everything(half_done)
        with pytest.raises((ConfigError, CheckpointError), match=told):
            train.run(["--resume", str(half_done), override])
        assert everything(half_done) == before


def test_a_dry_resume_of_a_pipeline_shows_what_is_left_and_changes_nothing(half_done, capsys):
    before = everything(half_done)
    assert train.run(["--resume", str(half_done), "--dry-run"]) == 0
    assert f"stage sft: reusing {half_done / 'sft'}" in capsys.readouterr().out
    assert train.run(["--resume", str(half_done), "stages.ppo.train.max_steps=7", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dir"] == str(half_done)
    assert [stage.get("ready") is not None for stage in told["stages"]] == [True, True, False]
    assert told["stages"][2]["steps"] == 7
    assert everything(half_done) == before
    wanted, title = pipeline_dir.load_request(half_done, Request())
    models = {name: str(half_done / name) for name in ("sft", "reward")}
    spec = pipeline_dir.run_spec(wanted.pipeline.stage("ppo"), wanted, models, half_done, title)
    (half_done / "ppo").mkdir()
    rundir.write_atomically(half_done / "ppo" / rundir.SPEC, spec.to_json())
    before = everything(half_done)
    assert train.run(["--resume", str(half_done), "stages.ppo.train.max_steps=5", "--dry-run"]) == 0
    assert "resumes from the start, as no checkpoint has been written yet: 0 steps done, 5 left" in (
        capsys.readouterr().out
    )
    assert everything(half_done) == before


def test_a_pipeline_has_one_command_at_work_in_it(half_done):
    with open(half_done / rundir.LOCK, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = everything(half_done)
        with pytest.raises(ConfigError, match="in use by another process"):
            train.run(["--resume", str(half_done), "stages.ppo.method.kl_coef=0.5"])
        assert everything(half_done) == before


def test_a_pipeline_is_found_by_its_name_and_means_its_last_stages_model(half_done, monkeypatch):
    target = half_done.parent / "runs" / "rlhf-tiny" / "20260101-120000"
    shutil.copytree(half_done, target)
    assert rundir.find_pipeline("rlhf-tiny") == target
    assert rundir.find_run("rlhf-tiny") is None
    assert rundir.whole(target / "sft") == target
    shutil.copytree(target / "sft", target / "ppo")
    assert rundir.find_run("rlhf-tiny") == target / "ppo"
    with pytest.raises(ConfigError, match=r"rlhf-tiny/20260101-120000/sft +is damaged"):  # nothing was trained there
        report.run(["rlhf-tiny"])


def test_a_directory_that_holds_something_is_left_alone(half_done):
    with pytest.raises(ConfigError, match="resume it with ftcli train --resume"):
        pipeline_dir.create(whole(f"run.dir={half_done}"), [])


def of_rlaif(*overrides: str) -> dict[str, Any]:
    """What each data-making stage of rlaif is told."""
    wanted = pipeline_request(Request(overrides=("method=rlaif", *overrides)))
    assert wanted is not None
    return {each.name: each.spec for each in pipeline_spec(wanted).stages if isinstance(each, SynthesisStage)}


def test_another_judge_is_one_override(here):
    found = of_rlaif("judge=openai", "judge.base_url=http://x/v1", "judge.model=m", "generator.batch_size=4")
    assert (found["judge"].backend.type, found["judge"].backend.base_url) == ("openai", "http://x/v1")
    assert (found["sample"].backend.type, found["sample"].backend.batch_size) == ("local", 4)
    found = of_rlaif("stages.judge.judge=rules", "judge.patterns=[fool]", "stages.sample.make.n=5", "seed=9")
    assert found["judge"].backend.type == "rules"
    assert found["sample"].settings["n"] == 5
    assert {each.seed for each in found.values()} == {9}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("judge=opnai", "did you mean judge=openai"),
        ("judge=openai", "needs the name of a model"),
        ("judge.concurency=3", "did you mean stages.judge.judge.concurrency"),
        ("stages.sample.make.n=0", "make.n must be at least 1"),
        ("stages.sample.make.n=many", "not a whole number"),
        ("stages.sample.train.seed=1", "is not an option of synthesis stage sample"),
        ("stages.judge.make.mode=best", "pairwise"),
        ("stages.judge.make.constitution=missing.yaml", "missing.yaml"),
        ("stages.sample.data.path=missing.jsonl", "missing.jsonl"),
        ("stages.sample.model=llama", "is a synthesis stage and trains no model"),
        ("generator.model=nowhere/at/all", "holds no model"),
    ],
)
def test_a_mistake_in_a_data_making_stage_is_told(override, told, here):
    with pytest.raises(ConfigError) as error:
        of_rlaif(override)
    assert told in str(error.value), error.value


def test_a_judge_belongs_to_pipelines(problems):
    assert "applies only to pipelines that synthesise data" in problems("judge=openai")[0]


def test_a_recipe_chooses_judges_and_makes(here):
    (here / "c.yaml").write_text('principles:\n  - name: a\n    judge: "{answer}?"\n', encoding="utf-8")
    (here / "r.yaml").write_text(
        "ftcli: 1\ndefaults:\n  - method: rlaif\n  - judge: openai\njudge:\n  model: m\n  concurrency: 2\n"
        "stages:\n  judge:\n    make:\n      constitution: c.yaml\n  sample:\n    make:\n      n: 7\n",
        encoding="utf-8",
    )
    grants = frozenset({"--allow-endpoint"})
    wanted = pipeline_request(Request(overrides=("recipe=r.yaml", "judge.concurrency=3"), grants=grants))
    assert wanted is not None
    found = {each.name: each.spec for each in pipeline_spec(wanted).stages if isinstance(each, SynthesisStage)}
    assert (found["judge"].backend.model, found["judge"].backend.concurrency) == ("m", 3)
    assert found["judge"].settings["constitution"] == str(here / "c.yaml")
    assert found["sample"].settings["n"] == 7


def test_every_pipeline_takes_models_of_earlier_stages_of_methods_that_exist():
    for name, pipeline in all_pipelines().items():
        assert pipeline.name == name
        before: list[str] = []
        for stage in pipeline.stages:
            assert stage.method in all_methods() if stage.method else stage.task in SETTINGS and stage.role in ROLES
            assert set(stage.takes.values()) <= set(before)
            before.append(stage.name)
        assert pipeline.measured_by in before if pipeline.measured_by else pipeline.built_in_measures
        assert spec_of(Request(overrides=(f"method={pipeline.stages[0].method}",)))


def stages_of(*overrides: str, **request: Any) -> list[str]:
    """The stages of a pipeline, each with what it takes."""
    wanted = pipeline_request(Request(overrides=overrides, **request))
    assert wanted is not None
    return [each.stage.name for each in pipeline_spec(wanted).stages]


def test_a_pipelines_own_settings_decide_what_stages_it_has(here):
    begun = ["assistant", "sft"]
    assert stages_of("method=rlaif") == [*begun, "sample", "judge", "dpo"]
    assert stages_of("method=rlaif", "method.algorithm=ppo") == [*begun, "sample", "judge", "reward", "ppo"]
    assert stages_of("method=rlaif", "method.algorithm=direct") == [*begun, "ppo"]
    assert stages_of("method=constitutional", "method.algorithm=ppo")[-3:] == ["judge", "reward", "ppo"]
    assert stages_of("method=online_dpo", "method.rounds=2")[-3:] == ["sample_2", "judge_2", "dpo_2"]
    (here / "r.yaml").write_text(
        "ftcli: 1\ndefaults:\n  - method: rlaif\nmethod:\n  algorithm: ppo\n", encoding="utf-8"
    )
    assert stages_of("recipe=r.yaml")[-2:] == ["reward", "ppo"]
    assert stages_of("recipe=r.yaml", "method.algorithm=dpo")[-1] == "dpo"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("method=rlaif", "method.algorithm=pp"), "did you mean ppo"),
        (("method=constitutional", "method.algorithm=direct"), "is not a choice of method.algorithm"),
        (("method=online_dpo", "method.rounds=0"), "is not a positive whole number"),
        (("method=rlhf", "method.algorithm=ppo"), "has to be set for a single stage of rlhf"),
        (("method=rlaif", "stages.ppo.seed=1"), "does not name a stage"),
    ],
)
def test_a_mistake_in_them_is_told(overrides, told, here):
    with pytest.raises(ConfigError) as error:
        stages_of(*overrides)
    assert told in str(error.value), error.value


def test_they_are_remembered(here):
    wanted = pipeline_request(Request(overrides=("method=online_dpo", "method.rounds=2", "run.dir=p")))
    assert wanted is not None
    folder = pipeline_dir.create(pipeline_spec(wanted), [])
    again, _ = pipeline_dir.load_request(folder, Request(overrides=()))
    assert [stage.name for stage in again.pipeline.stages] == [stage.name for stage in wanted.pipeline.stages]
    other, _ = pipeline_dir.load_request(folder, Request(overrides=("method.rounds=1",)))
    assert [each.stage.name for each in pipeline_spec(other).stages][-1] == "dpo"


def judge_of_ppo(*overrides: str) -> tuple[Any, tuple[str, ...]]:
    wanted = pipeline_request(Request(overrides=("method=rlaif", "method.algorithm=direct", *overrides)))
    assert wanted is not None
    [*_, last] = pipeline_spec(wanted).stages
    assert last.spec is not None
    return last.spec.method["judge"], last.fed


def test_a_judge_that_is_the_reward_is_the_assistant_or_whoever_is_named(here):
    judge, fed = judge_of_ppo("judge.batch_size=4")
    assert (judge["type"], judge["batch_size"]) == ("local", 4)
    assert "method.judge" in fed
    judge, fed = judge_of_ppo("judge=openai", "judge.base_url=http://x/v1", "judge.model=m")
    assert (judge["type"], judge["model"], judge["base_url"]) == ("openai", "m", "http://x/v1")
    assert "method.judge" not in fed
    judge, fed = judge_of_ppo("stages.ppo.judge=vllm")
    assert judge["type"] == "vllm"
    assert "method.judge" in fed


def test_the_transcripts_of_a_stage_can_be_read(here, capsys):
    stage = here / "revisions"
    stage.mkdir()
    (stage / "make.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="no finished item"):
        report.run(["revisions"])
    reply = {"principle": "kind", "answer": "Go away,\nfool.", "critique": "Rude.", "revision": "Please wait."}
    made = {
        "prompt": [{"role": "user", "content": "Hello?"}],
        "completion": [{"role": "assistant", "content": "Please"}],
    }
    given = {"prompt": made["prompt"], "answers": ["Go away,\nfool."]}
    lines = [
        {"key": "a", "input": given, "row": made, "replies": [reply]},
        {"key": "b", "input": given, "row": None, "dropped": "tie", "replies": []},
    ]
    (stage / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"key', encoding="utf-8")
    report.run(["revisions"])
    said = capsys.readouterr().out
    for told in (
        "item 1 of 2",
        "principle: kind",
        "answer: Go away,\n    fool.",
        "critique: Rude.",
        "prompt: Hello?",
        "answer 0: Go",
    ):
        assert told in said
    assert "dropped: tie" in said
    report.run(["revisions", "--json"])
    assert [item["key"] for item in json.loads(capsys.readouterr().out)["items"]] == ["a", "b"]


def test_rows_that_a_stage_made_are_taken_over_where_it_would_be_told_the_same(here):
    wanted = pipeline_request(Request(overrides=("method=rlaif", "run.dir=p")))
    assert wanted is not None
    folder = pipeline_dir.create(pipeline_spec(wanted), [])
    models: dict[str, str] = {}
    for stage in wanted.pipeline.stages[:4]:
        loaded, title = pipeline_dir.load_request(folder, Request())
        models[stage.name] = str(folder / stage.name)
        if stage.method:
            finished_stage(folder, stage.name, loaded, models, title)
            continue
        feeds = {name: models[source] for name, source in stage.takes.items()}
        spec = synthesis_stage.synthesis_spec(stage, loaded, feeds, folder, for_tiny=False)
        models[stage.name] += "/data.jsonl"
        (folder / stage.name).mkdir()
        rundir.write_atomically(folder / stage.name / "make.json", spec.to_json())
        rundir.write_json(folder / stage.name / rundir.RESULT, {"rows": 1})
        (folder / stage.name / "data.jsonl").write_text('{"prompt": "a", "answers": ["b", "c"]}\n', encoding="utf-8")
        state = rundir.read_pipeline(folder)
        state["stages"][stage.name]["rows"] = pipeline_dir.input_fingerprints(spec)
        rundir.write_json(folder / rundir.PIPELINE, state)

    def kept(*overrides: str) -> list[str]:
        loaded, name = pipeline_dir.load_request(folder, Request(overrides=overrides))
        found = pipeline_dir.reusable_stages(folder, loaded, here / "new", name)
        assert [
            each.name
            for each in pipeline_spec(pipeline_dir.with_ready(loaded, found)).stages
            if isinstance(each, ReadyStage)
        ]
        return list(found)

    assert kept("stages.dpo.seed=1") == kept("method.algorithm=ppo") == ["assistant", "sft", "sample", "judge"]
    assert kept("stages.judge.make.least_margin=0.5") == ["assistant", "sft", "sample"]
    assert kept("stages.sample.make.n=9") == ["assistant", "sft"]
    with (folder / "sample" / "data.jsonl").open("a", encoding="utf-8") as rows:
        rows.write('{"prompt": "d", "answers": ["e", "f"]}\n')
    assert kept("stages.dpo.seed=1") == ["assistant", "sft", "sample"]  # the judge has not seen that row


BY_FILE = "ftcli: 1\ndefaults:\n  - method: rlaif\n"
OPENAI = "judge:\n  model: m\n  base_url: http://x/v1\n  api_key_env: SOME_SECRET\n"


@pytest.mark.parametrize(
    ("recipe", "typed", "refused"),
    [
        (BY_FILE + "  - judge: openai\n" + OPENAI, (), True),
        (BY_FILE + OPENAI, ("judge=openai",), True),
        (BY_FILE + "judge:\n  model: m\n", ("judge=openai", "judge.base_url=http://x/v1"), False),
        (BY_FILE, ("judge=openai", "judge.model=m", "judge.base_url=http://x/v1", "judge.api_key_env=K"), False),
        (BY_FILE + "method:\n  algorithm: direct\n" + OPENAI, ("judge=openai",), True),
        (BY_FILE + "method:\n  algorithm: direct\n", ("judge=openai", "judge.model=m"), False),
    ],
)
def test_a_file_alone_sends_nothing_to_an_endpoint(recipe, typed, refused, here):
    (here / "r.yaml").write_text(recipe, encoding="utf-8")
    overrides = ("recipe=r.yaml", *typed)
    if not refused:
        assert stages_of(*overrides)
        return
    with pytest.raises(ConfigError, match="--allow-endpoint"):
        stages_of(*overrides)
    assert stages_of(*overrides, grants=frozenset({"--allow-endpoint"}))


@pytest.mark.parametrize("more", [(), ("method.algorithm=direct",)])
def test_a_pipeline_from_somewhere_asks_no_endpoint_unless_told_to(more, here):
    overrides = ("method=rlaif", *more, "judge=openai", "judge.model=m", "run.dir=p")
    wanted = pipeline_request(Request(overrides=overrides))
    assert wanted is not None
    folder = pipeline_dir.create(pipeline_spec(wanted), [])
    again, _ = pipeline_dir.load_request(folder, Request())
    with pytest.raises(ConfigError, match="--allow-endpoint"):
        pipeline_spec(again)
    granted, _ = pipeline_dir.load_request(folder, Request(grants=frozenset({"--allow-endpoint"})))
    assert pipeline_spec(granted)


def test_a_pipeline_from_somewhere_runs_no_code_of_a_model_unless_told_to(half_done):
    state = rundir.read_pipeline(half_done)
    state["stages"]["ppo"]["tree"]["model"]["trust_remote_code"] = True
    rundir.write_json(half_done / rundir.PIPELINE, state)
    with pytest.raises(ConfigError, match="grant it on the command line with --trust-remote-code"):
        pipeline_spec(pipeline_dir.load_request(half_done, Request())[0])
    granted = Request(grants=frozenset({"--trust-remote-code"}))
    assert pipeline_spec(pipeline_dir.load_request(half_done, granted)[0])


def test_a_runs_recipe_asks_no_endpoint_for_rewards(here, problems):
    judge = "method:\n  judge: {type: openai, model: m, base_url: 'http://x/v1'}\n"
    (here / "r.yaml").write_text("ftcli: 1\ndefaults:\n  - method: ppo\n" + judge, encoding="utf-8")
    assert "--allow-endpoint" in "".join(problems("recipe=r.yaml"))
    assert problems("recipe=r.yaml", grants=frozenset({"--allow-endpoint"})) == []
    assert problems("method=ppo", "method.judge={type: openai, model: m}") == []


def test_whoever_is_the_reward_is_remembered(here):
    def judge(*overrides: str, earlier: Path | None = None) -> dict[str, Any]:
        grants = frozenset({"--allow-endpoint"})
        if earlier is not None:
            wanted, _ = pipeline_dir.load_request(earlier, Request(overrides=overrides, grants=grants))
        else:
            found = pipeline_request(
                Request(overrides=("method=rlaif", "method.algorithm=direct", *overrides), grants=grants)
            )
            assert found is not None
            wanted = found
        [*_, last] = pipeline_spec(wanted).stages
        assert last.spec is not None
        return dict(last.spec.method["judge"])

    def kept(*overrides: str) -> Path:
        found = pipeline_request(Request(overrides=("method=rlaif", "method.algorithm=direct", *overrides)))
        assert found is not None
        return pipeline_dir.create(pipeline_spec(found), [])

    engine = kept("judge=vllm", "judge.batch_size=7", "run.dir=a")
    assert judge(earlier=engine) == judge("judge=vllm", "judge.batch_size=7")
    wanted, title = pipeline_dir.load_request(engine, Request())
    models = {"assistant": str(model_folder(here / "m1")), "sft": str(model_folder(here / "m2"))}
    spec = pipeline_dir.run_spec(wanted.pipeline.stage("ppo"), wanted, models, engine, title)
    assert spec.method["judge"] == {"type": "vllm", "batch_size": 7, "model": models["assistant"]}
    far = kept("judge=openai", "judge.model=m", "judge.base_url=http://x/v1", "run.dir=b")
    assert judge(earlier=far) == {"type": "openai", "model": "m", "base_url": "http://x/v1"}
    assert judge("judge=local", earlier=far)["type"] == "local"
    assert "base_url" not in judge("judge=local", earlier=far)
