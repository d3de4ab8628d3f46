"""The tokenizer and the model of a run, as the run finds it.

An adapter is merged into what it stacks on, however deep the stack, so that every run starts from one plain model: a
new adapter learns on top of all that came before, and a reference is never the bare base by accident.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, set_seed
from transformers import logging as transformers_logging
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ftcli.errors import ConfigError, Problem
from ftcli.rules import ATTENTION
from ftcli.settings import ModelSettings
from ftcli.sources import ModelSource, base_of, foundation, model_source

transformers_logging.disable_progress_bar()

# Tokens that models ship for padding without declaring them; the first that the vocabulary has is used.
_PAD_TOKENS = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def resolve(name_or_path: str) -> ModelSource:
    """The source of a model name.

    Raises:
        ConfigError: a run or folder that holds no model.
    """
    source = model_source(name_or_path)
    if source is None:
        what = f"{name_or_path} holds no model"
        raise ConfigError(Problem("model.name_or_path", what, "name a finished run, a model folder or a hub id"))
    return source


def weights_dtype(dtype: str, device: str) -> torch.dtype:
    """The torch type that `model.dtype` means on `device` ("cpu" or "cuda")."""
    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The model's tokenizer with a padding token; embeddings are never resized for one.

    Raises:
        ConfigError: the model holds no tokenizer.
    """
    source = resolve(settings.name_or_path)
    while source.is_adapter and not any((Path(source.location) / name).is_file() for name in _TOKENIZER_FILES):
        source = resolve(base_of(Path(source.location)))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.location, **_hub_arguments(settings, source))
    except (OSError, ValueError) as error:
        raise ConfigError(_unloadable(settings, "tokenizer", error)) from None
    if tokenizer.pad_token is None:
        vocabulary = tokenizer.get_vocab()
        spare = (token for token in _PAD_TOKENS if token in vocabulary and token != tokenizer.eos_token)
        # Padding is masked from loss and attention, so the end token does as well as any.
        tokenizer.pad_token = next(spare, tokenizer.eos_token)
    return tokenizer


def as_granted(settings: ModelSettings, request: Mapping[str, Any]) -> ModelSettings:
    """Settings out of a run directory without leave to run code, unless this request grants it anew.

    A run directory may come from anyone; an attention kernel that is not the libraries' own is code from the hub too.
    """
    if request.get("trust_remote_code"):
        return replace(settings, trust_remote_code=True)
    kernel = settings.attn_implementation if settings.attn_implementation in ATTENTION else "auto"
    return replace(settings, trust_remote_code=False, attn_implementation=kernel)


def load_model(settings: ModelSettings, *, seed: int, device: str) -> PreTrainedModel:
    """The model as a run finds it, on the CPU, with adapters merged, in evaluation mode.

    Args:
        seed: seeds the weights of `init: random`.
        device: where it will compute ("cpu" or "cuda"); decides what dtype `auto` is.

    Raises:
        ConfigError: it cannot be loaded.
    """
    source = resolve(settings.name_or_path)
    arguments = {
        "dtype": weights_dtype(settings.dtype, device),
        # None lets the architecture choose: sdpa, or eager where it caps its scores.
        "attn_implementation": None if settings.attn_implementation == "auto" else settings.attn_implementation,
    }
    try:
        if settings.init == "random":
            model = _random(settings, source, arguments, seed)
        else:
            model = _stacked(settings, source, arguments, settings.revision)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(_unloadable(settings, "model", error)) from None
    return model.eval()


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer with tokens that the model has no embedding for.

    Raises:
        ConfigError: the tokenizer is larger than the embedding.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        what = f"the tokenizer has {len(tokenizer)} tokens, the model embeds {rows}"
        raise ConfigError(Problem("model.name_or_path", what, "use the tokenizer that belongs to the model"))


def position_limit(settings: ModelSettings) -> int | None:
    """Longest sequence in tokens that a model has positions for, where its configuration tells; loads no weights.

    Raises:
        ConfigError: the model has no configuration.
    """
    base = _bottom(settings)
    try:
        config = AutoConfig.from_pretrained(base.location, **_hub_arguments(settings, base))
    except (OSError, ValueError) as error:
        raise ConfigError(_unloadable(settings, "model", error)) from None
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def stop_ids(settings: ModelSettings) -> list[int]:
    """The tokens at which the model's own generation settings stop; [] where it ships none."""
    base = _bottom(settings)
    arguments = {key: value for key, value in _hub_arguments(settings, base).items() if key == "revision"}
    try:
        found = GenerationConfig.from_pretrained(base.location, **arguments).eos_token_id
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else [] if found is None else [found]


def _bottom(settings: ModelSettings) -> ModelSource:
    base = foundation(resolve(settings.name_or_path))
    assert base is not None
    return base


def _hub_arguments(settings: ModelSettings, source: ModelSource) -> dict[str, Any]:
    arguments: dict[str, Any] = {"trust_remote_code": True} if settings.trust_remote_code else {}
    return {**arguments, "revision": settings.revision} if source.hub_id and settings.revision else arguments


def _random(settings: ModelSettings, source: ModelSource, arguments: dict[str, Any], seed: int) -> PreTrainedModel:
    base = foundation(source)
    assert base is not None
    config = AutoConfig.from_pretrained(base.location, **_hub_arguments(settings, base))
    set_seed(seed)
    remote = {"trust_remote_code": True} if settings.trust_remote_code else {}
    return AutoModelForCausalLM.from_config(config, **arguments, **remote)


def _stacked(
    settings: ModelSettings, source: ModelSource, arguments: dict[str, Any], revision: str | None
) -> PreTrainedModel:
    if not source.is_adapter:
        remote: dict[str, Any] = {"trust_remote_code": True} if settings.trust_remote_code else {}
        if source.hub_id and revision:
            remote["revision"] = revision
        return AutoModelForCausalLM.from_pretrained(source.location, **arguments, **remote)
    from peft import PeftModel  # only a stack of adapters pays for it here

    folder = Path(source.location)
    declared = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    below = _stacked(settings, resolve(base_of(folder)), arguments, declared.get("revision"))
    model: Any = PeftModel.from_pretrained(below, str(folder)).merge_and_unload()
    # PEFT froze what it stacked on; a run that trains all parameters starts from here as well.
    model.requires_grad_(True)
    # What a new adapter will name as its base: this whole stack.
    model.name_or_path = source.location
    return model


def _unloadable(settings: ModelSettings, part: str, error: Exception) -> Problem:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    if "attention implementation" in reason[0]:
        what = f"{settings.name_or_path} does not run with {settings.attn_implementation} attention"
        return Problem("model.attn_implementation", what, "set model.attn_implementation=eager")
    what = f"the {part} of {settings.name_or_path} cannot be loaded: {reason[0]}"
    return Problem("model.name_or_path", what, "check the name, or fetch the model before")
