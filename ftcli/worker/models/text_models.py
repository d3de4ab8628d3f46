"""The text model inside a multimodal checkpoint, where transformers can build it by itself."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TEXT_KEYS = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^(model\.)?language_model\.(model\.)?": "model.",
}
"""Where multimodal checkpoints keep the text decoder → where the text model has it."""


def text_config(config: PreTrainedConfig) -> PreTrainedConfig | None:
    """The configuration of the text model to load in place of a multimodal one; None where none has to be.

    None also where transformers itself takes the text model of such a configuration.
    """
    if "text_config" not in config.sub_configs or config.get_text_config() is config:
        return None
    text = config.text_config
    if text.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return None
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if name == MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[text.model_type]:
        return None
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        text.quantization_config = stored
    if getattr(text, "dtype", None) is None:
        text.dtype = config.dtype
    return text


def without_renaming(model: Any) -> Any:
    """The model, to be saved under the names that it has, not under those that it was read by."""
    model._weight_conversions = None
    return model


def causal_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the causal LM that a run loads for a checkpoint's configuration.

    Raises:
        ValueError: transformers has no causal LM for it.
    """
    chosen = text_config(config) or config
    if type(chosen) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(f"transformers has no causal language model for {config.model_type}")
    return chosen
