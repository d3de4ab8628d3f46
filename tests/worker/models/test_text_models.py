"""Multimodal checkpoints train as the text models inside them, with the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from ftcli.settings.groups import ModelSettings
from ftcli.worker.models.load import load_model
from ftcli.worker.models.text_models import causal_config
from ftcli.worker.models.two_layers import small_copies

TEXT = ("gemma3", "gemma4", "mistral3", "llama4", "qwen3_5", "llava")
PROBE = torch.arange(5, 25)[None]


def checkpoint(model_type: str, folder: Path) -> Any:
    """A small random multimodal checkpoint in a folder."""
    torch.manual_seed(0)
    for config in small_copies(AutoConfig.for_model(model_type)):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
        model.save_pretrained(folder)
        return model
    raise AssertionError(model_type)


@pytest.mark.parametrize("model_type", TEXT)
def test_the_text_model_of_a_multimodal_checkpoint_has_its_logits(model_type: str, tmp_path: Path):
    whole = checkpoint(model_type, tmp_path / "whole")
    text = load_model(ModelSettings(name_or_path=str(tmp_path / "whole")), seed=0, device="cpu")
    assert "vision" not in " ".join(name for name, _ in text.named_parameters())
    with torch.no_grad():
        expected, found = whole(input_ids=PROBE).logits, text(input_ids=PROBE).logits
    assert torch.allclose(found, expected, atol=1e-5)
    # What is saved is the text model, under its own names, and loads as such.
    text.save_pretrained(tmp_path / "text")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "text").eval()
    assert type(again) is type(text)
    with torch.no_grad():
        assert torch.equal(again(input_ids=PROBE).logits, found)


def test_a_model_without_a_text_model_inside_is_refused_with_its_name():
    with pytest.raises(ValueError, match="no causal language model for clip"):
        causal_config(AutoConfig.for_model("clip"))


def test_a_checkpoint_that_lacks_weights_of_its_decoder_is_refused(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    from ftcli.core.errors import ConfigError

    checkpoint("gemma3", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if "layers.1.mlp.up_proj" in name)
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gemma3"
    with pytest.raises(ConfigError, match="its text decoder lacks 1 weights"):
        load_model(ModelSettings(name_or_path=str(tmp_path)), seed=0, device="cpu")
