"""A config.json that says the same to programs of transformers 4 and 5."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from ftcli.models.export.former_names import with_former_names

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a base": ("llama", {"rope_theta": 1e5}, {"rope_theta": 1e5}),
    "a stretched one": (
        "llama",
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
    ),
    "a part of each head": (
        "phi",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.4}},
        {"rope_theta": 2e4, "partial_rotary_factor": 0.4},
    ),
    "two kinds of layers": ("gemma3_text", {}, {"rope_theta": 1e6, "rope_local_base_freq": 1e4}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_5_writes_has_the_former_names_too_and_reads_the_same(family: str):
    model_type, given, former = FAMILIES[family]
    config = AutoConfig.for_model(model_type, **given)
    written = config.to_dict()
    named = with_former_names(written)
    assert {key: named[key] for key in former} == former
    assert {key: value for key, value in named.items() if key not in former} == {
        key: value for key, value in written.items() if key not in former
    }
    read = AutoConfig.for_model(**named)
    assert read.to_dict()["rope_parameters"] == written["rope_parameters"]


def test_what_is_said_already_stays():
    said = {"rope_theta": 7.0, "rope_parameters": {"rope_type": "default", "rope_theta": 8.0}}
    assert with_former_names(said) == said
    assert (
        with_former_names({"text_config": {"rope_parameters": {"rope_theta": 8.0}}})["text_config"]["rope_theta"] == 8.0
    )
