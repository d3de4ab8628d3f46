"""The reference of the rounds of online DPO."""

from __future__ import annotations

import pytest

from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec


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
