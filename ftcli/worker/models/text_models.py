"""The text model inside a multimodal checkpoint, where transformers can build it by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedConfig, logging
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
    # Whether head and embedding share a weight is said by the whole configuration, which built the checkpoint.
    text.tie_word_embeddings = config.tie_word_embeddings
    if getattr(text, "dtype", None) is None:
        text.dtype = config.dtype
    return text


def text_model(location: str, config: PreTrainedConfig, arguments: Mapping[str, Any]) -> Any:
    """The text decoder of a multimodal checkpoint, without its towers.

    Raises:
        ValueError: the checkpoint lacks some of its weights.
    """
    more = {**arguments, "config": config, "key_mapping": TEXT_KEYS, "output_loading_info": True}
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # the weights of the towers are left out on purpose, and listed otherwise
    try:
        model, found = AutoModelForCausalLM.from_pretrained(location, **more)
    finally:
        logging.set_verbosity(level)
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"its text decoder lacks {len(missing)} weights, such as {missing[0]}")
    # It is saved under its own names, not under those that it was read by.
    model._weight_conversions = None
    return model


def taken_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration that AutoModelForCausalLM builds from: the text model's, where it takes that of a multimodal
    one."""
    inside = config.sub_configs.get("text_config")
    wanted = getattr(AutoModelForCausalLM._model_mapping[type(config)], "config_class", None)
    return config.get_text_config() if inside is not None and inside == wanted else config


def causal_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the causal LM that a run loads for a checkpoint's configuration.

    Raises:
        ValueError: transformers has no causal LM for it.
    """
    chosen = text_config(config) or config
    if type(chosen) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(f"transformers has no causal language model for {config.model_type}")
    taken = taken_config(chosen)
    if type(taken) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(f"its text model would be saved as {taken.model_type}, which transformers cannot load again")
    return chosen
