"""The reference of the rounds of online DPO."""

from __future__ import annotations

import pytest

from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.pipelines.stages import PipelineSpec, RunStage, SynthesisStage


def taken(*overrides: str) -> dict[str, str]:
    """The stage that each round of DPO takes its reference from, where that is not the one that it starts from."""
    wanted = pipeline_request(Request(overrides=("method=online_dpo", *overrides)))
    assert wanted is not None
    stages = {each.name: each for each in pipeline_spec(wanted).stages if each.name.startswith("dpo")}
    assert [stage.takes()["model.name_or_path"] for stage in stages.values()] == ["sft", "dpo", "dpo_2"]
    references = {name: stage.takes().get("method.reference_model", "") for name, stage in stages.items()}
    return {name: reference for name, reference in references.items() if reference}


def test_the_reference_is_that_of_the_round_or_of_the_start(here):
    assert taken() == taken("method.reference=round") == {}
    assert taken("method.reference=start") == {"dpo_2": "sft", "dpo_3": "sft"}
    with pytest.raises(ConfigError, match=r"is not a choice of method\.reference"):
        taken("method.reference=first")


def stages(*overrides: str) -> PipelineSpec:
    wanted = pipeline_request(Request(overrides=("method=online_dpo", "method.rounds=2", *overrides)))
    assert wanted is not None
    return pipeline_spec(wanted)


def test_what_is_set_for_the_first_round_holds_for_later_ones(here):
    (here / "prompts.jsonl").write_text('{"prompt": "a"}\n' * 8, encoding="utf-8")
    (here / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 8, encoding="utf-8")
    spec = stages(
        "stages.sample.data.path=prompts.jsonl", "stages.sample.make.n=5", "stages.judge.make.least_margin=0.4",
        "stages.judge.judge=rules", "stages.judge.judge.patterns=[rude]", "stages.dpo.method.beta=0.3",
        "stages.dpo.peft=lora", "stages.dpo.peft.r=4", "stages.dpo.train.max_steps=2", "stages.dpo_2.train.max_steps=3",
        "stages.dpo.data.path=pairs.jsonl",
    )  # fmt: skip
    by_name = {each.name: each for each in spec.stages}
    sample, judge, dpo = (by_name[f"{name}_2"] for name in ("sample", "judge", "dpo"))
    assert isinstance(sample, SynthesisStage)
    assert isinstance(judge, SynthesisStage)
    assert isinstance(dpo, RunStage)
    assert (sample.spec.rows, sample.spec.settings["n"]) == (str(here / "prompts.jsonl"), 5)
    assert (judge.spec.settings["least_margin"], judge.spec.backend.type) == (0.4, "rules")
    assert (dpo.spec.method["beta"], dpo.spec.peft["r"], dpo.spec.train["max_steps"]) == (0.3, 4, 3)
    # What each round takes from its own stages is not what the first one took.
    assert dpo.takes() == {"model.name_or_path": "dpo", "data.path": "judge_2"}
    assert spec.rounds == (
        "stage sample_2 has data.path, make.n of sample",
        "stage judge_2 has make.least_margin, judge, judge.patterns of judge",
        "stage dpo_2 has method.beta, peft, peft.r of dpo, and sets train.max_steps itself, in place of that of dpo",
    )


def test_what_a_recipe_says_of_the_first_round_holds_for_later_ones(here, capsys):
    recipe = """ftcli: 1
defaults:
  - method: online_dpo
method:
  rounds: 3
stages:
  sample:
    make: {n: 5}
    data: {max_rows: 9}
  dpo:
    defaults:
      - peft: lora
    peft: {r: 4}
    method: {beta: 0.3}
  dpo_3:
    defaults:
      - peft: none
    method: {beta: 0.1}
"""
    (here / "rounds.yaml").write_text(recipe, encoding="utf-8")
    wanted = pipeline_request(Request(overrides=("recipe=rounds.yaml", "stages.sample_2.data.max_rows=8")))
    assert wanted is not None
    by_name = {each.name: each for each in pipeline_spec(wanted).stages}
    rows = {name: each.spec.max_rows for name, each in by_name.items() if isinstance(each, SynthesisStage)}
    assert {name: rows[name] for name in ("sample", "sample_2", "sample_3")} == {
        "sample": 9,
        "sample_2": 8,
        "sample_3": 9,
    }
    runs = {name: each.spec for name, each in by_name.items() if isinstance(each, RunStage)}
    assert [runs[name].method["beta"] for name in ("dpo", "dpo_2", "dpo_3")] == [0.3, 0.3, 0.1]
    # A group that is chosen again keeps nothing of the first round's.
    assert [runs[name].choices["peft"] for name in ("dpo", "dpo_2", "dpo_3")] == ["lora", "lora", "none"]
    assert "r" not in runs["dpo_3"].peft
    assert main(["check", "recipe=rounds.yaml", "stages.sample_2.data.max_rows=8"]) == 0
    told = capsys.readouterr().out
    assert "stage sample_2 has make.n of sample, and sets data.max_rows itself, in place of that of sample" in told
    assert "stage dpo_3 sets peft, method.beta itself, in place of that of dpo" in told


def test_a_typed_choice_of_a_later_round_leaves_the_settings_of_the_recipe_out(here):
    recipe = """ftcli: 1
defaults:
  - method: online_dpo
method: {rounds: 2}
stages:
  dpo:
    defaults:
      - peft: lora
    peft: {r: 4}
"""
    (here / "rounds.yaml").write_text(recipe, encoding="utf-8")
    wanted = pipeline_request(Request(overrides=("recipe=rounds.yaml", "stages.dpo_2.peft=none")))
    assert wanted is not None
    runs = pipeline_spec(wanted).runs()
    assert [runs[name].spec.choices["peft"] for name in ("dpo", "dpo_2")] == ["lora", "none"]
