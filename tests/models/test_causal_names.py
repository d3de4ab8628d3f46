"""Which architectures are causal LMs is read from the source of transformers, and is what transformers says."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ftcli.models.causal_names import causal_names, why_not_causal
from ftcli.worker.models.text_models import causal_config


def test_the_names_read_are_those_of_the_library():
    assert causal_names() == dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_a_multimodal_model_counts_by_the_text_model_inside_it():
    assert why_not_causal({"model_type": "mistral3", "text_config": {"model_type": "mistral"}}) is None
    assert why_not_causal({"model_type": "own", "auto_map": {"AutoModelForCausalLM": "modeling.Own"}}) is None
    reason = why_not_causal({"model_type": "blip", "text_config": {"model_type": "blip_text_model"}})
    assert reason is not None
    assert reason.endswith("no causal language model for model_type=blip, nor for its text model (blip_text_model)")


def test_a_text_model_that_could_not_be_loaded_again_is_refused_before_it_trains():
    """The front half by the names alone, the worker by the classes: both refuse the same configurations."""
    refused = {}
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = AutoConfig.for_model(name)
        except Exception:  # refuses its own defaults
            continue
        reason = why_not_causal(json.loads(json.dumps(config.to_dict(), default=str)))
        try:
            causal_config(config)
        except ValueError as error:
            assert reason is not None
            refused[name] = str(error).split(" would be ")[1]
            assert reason.endswith(refused[name])
        else:
            assert reason is None, name
    assert set(refused) == {"emu3", "mllama"}
    assert refused["emu3"] == "saved as emu3_text_model, which transformers cannot load again"


def test_a_check_refuses_a_model_that_generates_no_text(tmp_path: Path, problems):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "clip", "text_config": {"model_type": "clip_text_model"}})
    )
    found = problems(f"model.name_or_path={tmp_path}")
    assert any("no causal language model for model_type=clip" in problem for problem in found)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "olmo3"}))
    assert not any("causal language model" in problem for problem in problems(f"model.name_or_path={tmp_path}"))
