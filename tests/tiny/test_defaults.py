"""The built-in world's settings: each belongs to a stage that there is, and no method declares any."""

from __future__ import annotations

import pytest

from ftcli.methods import all_pipelines
from ftcli.methods.pipeline import Pipeline
from ftcli.tiny import defaults

ARRANGED = [
    pytest.param(pipeline.arranged({name: value}), id=f"{pipeline.name}-{name}={value}")
    for pipeline in all_pipelines().values()
    for name, option in (pipeline.options or {"": None}).items()
    for value in ((option.choices or (1, 3)) if option else (None,))
]


@pytest.mark.parametrize("pipeline", ARRANGED)
def test_the_built_in_model_has_settings_for_every_stage(pipeline: Pipeline):
    assert all(pipeline.built_in(stage) for stage in pipeline.stages)


def test_every_entry_is_read_by_some_arrangement_of_its_pipeline():
    declared = {(pipeline, entry) for pipeline, entries in defaults.STAGES.items() for entry in entries}
    read = set()
    for parameter in ARRANGED:
        [pipeline] = parameter.values
        for stage in pipeline.stages:
            name = stage.name.partition("_")[0]
            by_role = f"{name} {stage.role}"
            read.add((pipeline.name, by_role if by_role in defaults.STAGES[pipeline.name] else name))
    optional = {(name, entry) for name, entry in declared if entry in ("reward", "ppo", "ppo judge")}
    assert declared - read <= optional
    assert read <= declared


def test_a_later_round_has_the_first_ones_settings_but_measures_no_agreement_again():
    first, second = (defaults.stage_settings("online_dpo", name) for name in ("judge", "judge_2"))
    assert {**second, "make.labelled": "builtin:preferences"} == first
    assert "make.labelled" not in second


def test_a_pipeline_without_a_toy_has_no_settings():
    assert defaults.stage_settings("somebodys_own", "sft") == {}
    assert defaults.measures("rlhf") == {}
