"""The written examples of a revise stage: shown by default, and by no stage that was composed without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.pipelines.stages import SynthesisStage
from ftcli.pipelines.synthesis_stage import synthesis_spec

OWN = (
    "stages.assistant.model.name_or_path=someone/model", "stages.answers.data.path=builtin:redteam",
    "stages.sample.data.path=builtin:redteam",
)  # fmt: skip


def settings_of(*overrides: str) -> Mapping[str, Any]:
    wanted = pipeline_request(Request(overrides=("method=constitutional", *overrides)))
    assert wanted is not None
    [stage] = [each for each in pipeline_spec(wanted).stages if each.name == "revisions"]
    assert isinstance(stage, SynthesisStage)
    return stage.spec.settings


def test_a_revise_stage_shows_the_shipped_examples_unless_told_otherwise(here):
    assert settings_of(*OWN)["examples"] == "default"
    assert settings_of(*OWN, "stages.revisions.make.examples=null")["examples"] is None
    assert settings_of()["examples"] is None  # the built-in model, which reads no long conversations
    (here / "own.jsonl").write_text('{"critique": [], "revision": []}\n', encoding="utf-8")
    assert settings_of(*OWN, "stages.revisions.make.examples=own.jsonl")["examples"] == str(here / "own.jsonl")


def test_a_stage_of_an_earlier_version_goes_on_without_examples(here):
    wanted = pipeline_request(Request(overrides=("method=constitutional", *OWN)))
    assert wanted is not None
    [stage] = [each for each in pipeline_spec(wanted).stages if each.name == "revisions"]
    assert isinstance(stage, SynthesisStage)
    made = stage.remembered()["make"]
    assert made["values"].pop("make.examples") == "default"  # as it was recorded before there were any
    object.__setattr__(wanted, "earlier", {"revisions": {"make": made}})
    feeds = {"rows": "answers.jsonl", "backend.model": "someone/model"}
    again = synthesis_spec(stage.stage, wanted, feeds, here, for_tiny=False)
    assert again.settings.get("examples") is None


def test_examples_that_are_wrong_are_refused_before_a_stage_runs(here):
    (here / "own.yaml").write_text("examples:\n  - {principle: harm}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not an example"):
        settings_of(*OWN, "stages.revisions.make.examples=own.yaml")
    with pytest.raises(ConfigError, match=r"there is no file missing\.yaml"):
        settings_of(*OWN, "stages.revisions.make.examples=missing.yaml")
