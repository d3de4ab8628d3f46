"""Loading tokenizers and models: causal LMs and reward models, quantised or not, with adapters merged or on top.

An adapter is merged into the model that it was trained on, however deep the stack, so that every run starts from one
plain model: a new adapter builds on all that came before, and a reference is never the bare base by accident.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    set_seed,
)
from transformers import logging as transformers_logging
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from trl.trainer.reward_trainer import suppress_seqcls_warning

from ftcli.core.errors import ConfigError, Problem
from ftcli.models.attention_kernels import runs_here
from ftcli.models.sources import (
    ModelSource,
    adapter_declares,
    base_of,
    foundation,
    foundation_of,
    head_of,
    resolved_source,
)
from ftcli.models.stored_files import require_own_weights
from ftcli.models.templates.chat_template import BASE_FIX, named_template, with_defaults
from ftcli.models.templates.template_rendering import unread_variables, variables
from ftcli.peft_methods import why_unmerged
from ftcli.settings.groups import ModelSettings, QuantisationSettings
from ftcli.settings.ownership import ATTENTION
from ftcli.worker.models.bitsandbytes_layers import bitsandbytes_config, keeping_numbers
from ftcli.worker.models.damaged_files import naming_damage, unloadable
from ftcli.worker.models.new_tokens import add_tokens, grow, grow_for_adapter, readable_head
from ftcli.worker.models.stored_weights import saved_plain, turned_plain, unquantised, without_kernels
from ftcli.worker.models.text_models import text_config, text_model
from ftcli.worker.models.unread_weights import NOWHERE, hold_nothing, unread
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.serving_parity import turn_end
from ftcli.worker.tokenise.special_tokens import end_ids

transformers_logging.disable_progress_bar()

# Padding tokens that models ship without declaring them; the first one in the vocabulary is used.
_PAD_TOKENS = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>")
_HEADS = {"causal_lm": AutoModelForCausalLM, "reward_model": AutoModelForSequenceClassification}
"""Heads by the names of the declarations: a causal LM, or a reward model (a sequence classifier with one label)."""
UNQUANTISED = QuantisationSettings()
GENERATION_FILE = "generation_config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def best_device() -> str:
    """The device for inference: "cuda" if available, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def weights_dtype(dtype: str, device: str) -> torch.dtype:
    """The torch type that `model.dtype` means on `device` ("cpu" or "cuda")."""
    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


@naming_damage
def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The model's tokenizer with a padding token, for which embeddings are never resized, with the chat template and
    the new tokens of the settings.

    Raises:
        ConfigError: the model has no tokenizer, or a setting does not fit it.
    """
    source = resolved_source(settings.name_or_path)
    # An adapter saved by another tool may come without a tokenizer: its base then has the one it was trained with.
    while source.is_adapter and not any((Path(source.location) / name).is_file() for name in _TOKENIZER_FILES):
        source = resolved_source(base_of(Path(source.location)))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.location, **_hub_arguments(settings, source))
    except (OSError, ValueError) as error:
        raise ConfigError(unloadable(settings, "tokenizer", error)) from None
    if tokenizer.pad_token is None:
        vocabulary = tokenizer.get_vocab()
        spare = (token for token in _PAD_TOKENS if token in vocabulary and token != tokenizer.eos_token)
        # Padding is masked from loss and attention, so the end token serves as well as any other.
        tokenizer.pad_token = next(spare, tokenizer.eos_token)
    _set_template(tokenizer, settings)
    if settings.new_tokens:
        add_tokens(tokenizer, settings.new_tokens)
    return tokenizer


def _set_template(tokenizer: PreTrainedTokenizerBase, settings: ModelSettings) -> None:
    """Make the settings' chat template and variables the tokenizer's own, with which it is saved.

    Raises:
        ConfigError: there is no such template, or it does not read a variable.
    """
    if settings.chat_template is not None:
        tokenizer.chat_template = named_template(settings.chat_template)
    values, own = settings.chat_template_kwargs, tokenizer.chat_template
    if not values:
        return
    if not own:
        what = "the model's tokenizer has no chat template, so there is none to set variables of"
        raise ConfigError(Problem("model.chat_template_kwargs", what, BASE_FIX))
    named = own if isinstance(own, dict) else {"default": own}
    read = frozenset().union(*map(variables, named.values()))
    if problems := [*unread_variables(values, read, "model.chat_template_kwargs")]:
        raise ConfigError(*problems)
    named = {name: with_defaults(template, values) for name, template in named.items()}
    tokenizer.chat_template = named if isinstance(own, dict) else named["default"]


def make_encoder(model: ModelSettings) -> Encoder:
    """The encoder of a model's tokenizer, with the end tokens that are used in serving.

    Raises:
        ConfigError: the model has no tokenizer.
    """
    tokenizer = load_tokenizer(model)
    end = turn_end(tokenizer)
    named = f"model.chat_template={model.chat_template}" if model.chat_template is not None else "the tokenizer"
    return Encoder(tokenizer, [*stop_ids(model), *([] if end is None else [end])], named)


def as_granted(settings: ModelSettings, request: Mapping[str, Any]) -> ModelSettings:
    """Settings from a run directory, without the permission to run code unless this request grants it again.

    A run directory may come from anyone; an attention kernel that is not built into the libraries is code from the hub
    too.
    """
    granted, kernel = bool(request.get("trust_remote_code")), settings.attn_implementation
    if not (granted or kernel in ATTENTION) or not runs_here(kernel, cuda=torch.cuda.is_available()):
        kernel = "auto"  # nobody granted it, or the run was trained on another machine
    return replace(settings, trust_remote_code=granted, attn_implementation=kernel)


@naming_damage
def load_model(
    settings: ModelSettings,
    *,
    seed: int,
    device: str,
    head: str = "causal_lm",
    quantisation: QuantisationSettings = UNQUANTISED,
    as_stored: bool = False,
    shard_dtype: str | None = None,
    placed: bool = True,
    read: bool = True,
) -> PreTrainedModel:
    """The starting model of a run, with adapters merged, in evaluation mode.

    On a GPU weights go straight to it, file by file; on a CPU they are mapped from their files where they are held as
    they are stored. So no process has a second copy in its own memory.

    Args:
        seed: for the weights of `init: random`, and of a new head.
        device: where it will run ("cpu" or "cuda"); decides what dtype `auto` means.
        head: "causal_lm" or "reward_model".
        quantisation: how its linear layers are quantised at load time.
        as_stored: whether dtype `auto` means the dtype that the weights are stored in instead.
        shard_dtype: as RunSpec.shard_dtype, of a model that is sharded.
        placed: false leaves weights that are not quantised on the CPU: what shards a model distributes them itself.
        read: false gives a stored model without its weights, for a process to which they are sent.

    Raises:
        ConfigError: it cannot be loaded.
    """
    source = resolved_source(settings.name_or_path)
    set_seed(seed)
    arguments = {
        "dtype": "auto" if as_stored and settings.dtype == "auto" else weights_dtype(settings.dtype, device),
        # None lets the architecture choose: sdpa, or eager if it caps its attention logits.
        "attn_implementation": None if settings.attn_implementation == "auto" else settings.attn_implementation,
    }
    place = {"device_map": {"": torch.cuda.current_device()}} if placed and device == "cuda" else {}
    place = place if read else NOWHERE
    try:
        _require_causal(settings.name_or_path, source, head)
        loader = _Loader(settings, arguments, _HEADS[head], {"num_labels": 1} if head == "reward_model" else {}, place)
        # Which warns that the weights of a new head are in no file.
        with suppress_seqcls_warning(), nullcontext() if read else unread():
            if settings.init == "random":
                model = loader.random(source)
            elif quantisation.type == "none":
                model = loader.stacked(source, settings.revision)
            else:
                model = loader.quantised(source, settings.revision, quantisation, device, shard_dtype)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(unloadable(settings, "model", error)) from None
    if settings.new_tokens:
        size = len(load_tokenizer(settings))
        grow(model, size - len(settings.new_tokens), size)
    return (model if read else hold_nothing(model)).eval()


@naming_damage
def load_trained(
    settings: ModelSettings,
    *,
    seed: int,
    device: str,
    head: str = "causal_lm",
    quantisation: QuantisationSettings = UNQUANTISED,
    as_stored: bool = False,
) -> Any:
    """The trained model of a run: a full model, or its base with the trained adapter on it, not merged.

    Loaded with the quantisation that it was trained on, it computes bit for bit what it did at the end of training.
    Arguments and errors are those of `load_model`.
    """
    how: dict[str, Any] = {"seed": seed, "device": device, "head": head, "as_stored": as_stored}
    how["quantisation"] = quantisation
    source = resolved_source(settings.name_or_path)
    if not source.is_adapter or settings.new_tokens:  # a run that adds tokens starts from the merged model
        return load_model(settings, **how)
    _require_causal(settings.name_or_path, source, head)
    folder = Path(source.location)
    below = replace(settings, name_or_path=base_of(folder), revision=adapter_declares(folder).get("revision"))
    return with_adapter(load_model(below, **how), folder)


def _require_causal(name: str, source: ModelSource, head: str) -> None:
    """Refuse a reward model where a causal LM is needed: its head would silently be replaced by a random one.

    Raises:
        ConfigError: it is a reward model.
    """
    if head == "causal_lm" and source.folder is not None and head_of(source.folder) == "reward_model":
        what = f"{name} is a reward model, not a causal LM"
        raise ConfigError(Problem("model.name_or_path", what, "name a causal LM; ftcli score uses reward models"))


@naming_damage
def with_adapter(base: PreTrainedModel, folder: Path, name: str = "default") -> Any:
    """The base with a saved adapter on it, as a PeftModel in evaluation mode.

    Raises:
        ConfigError: PEFT cannot place a tensor of the adapter in the model, or lacks one.
    """
    # Only for an adapter, since they import PEFT; their package registers our tuner with it.
    from ftcli.worker.tuners.adapter_tensors import load_whole
    from ftcli.worker.tuners.initialised import start_beside, take_out

    adapter_declares(folder)  # refused here if PEFT would import what it names
    grow_for_adapter(base, folder)
    if (folder / GENERATION_FILE).is_file():  # where answers of the adapter end
        base.generation_config = GenerationConfig.from_pretrained(str(folder))
    model = load_whole(base, folder, name)
    if (start := start_beside(folder)) is not None and not getattr(base, "is_quantized", False):
        take_out(model, start, name)  # the quantised base lacked it, this one does not
    return readable_head(model).eval()


@naming_damage
def position_limit(settings: ModelSettings) -> int | None:
    """The longest sequence in tokens that a model has positions for, if its configuration says so; loads no weights.

    Raises:
        ConfigError: the model has no configuration.
    """
    base = foundation_of(settings.name_or_path)
    try:
        config = AutoConfig.from_pretrained(base.location, **_hub_arguments(settings, base))
    except (OSError, ValueError) as error:
        raise ConfigError(unloadable(settings, "model", error)) from None
    return getattr(config.get_text_config(), "max_position_embeddings", None)


@naming_damage
def stop_ids(settings: ModelSettings) -> list[int]:
    """The end tokens of the model's own generation config, else of its base's; [] if none has one."""
    base = resolved_source(settings.name_or_path)
    while base.is_adapter and not (Path(base.location) / GENERATION_FILE).is_file():
        base = resolved_source(base_of(Path(base.location)))
    arguments = {key: value for key, value in _hub_arguments(settings, base).items() if key == "revision"}
    try:
        return end_ids(GenerationConfig.from_pretrained(base.location, **arguments))
    except (OSError, ValueError):
        return []


def _hub_arguments(settings: ModelSettings, source: ModelSource) -> dict[str, Any]:
    # Said also where it is not granted: left open, transformers asks on the terminal.
    arguments: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    return {**arguments, "revision": settings.revision} if source.hub_id and settings.revision else arguments


@dataclass(frozen=True)
class _Loader:
    """Loads a model with the requested settings, however deep its stack of adapters."""

    settings: ModelSettings
    arguments: dict[str, Any]
    auto_class: Any
    of_head: dict[str, Any]
    """Config values that the head needs: the number of labels of a reward model."""
    place: dict[str, Any]
    """Where stored weights go, as an argument of from_pretrained; {} is the CPU."""

    @property
    def remote(self) -> dict[str, Any]:
        return {"trust_remote_code": self.settings.trust_remote_code}

    def random(self, source: ModelSource) -> PreTrainedModel:
        """Random weights in the shape of the model at the bottom of the stack."""
        base = foundation(source)
        assert base is not None
        config = AutoConfig.from_pretrained(base.location, **_hub_arguments(self.settings, base), **self.of_head)
        text = text_config(without_kernels(config)) if self.auto_class is AutoModelForCausalLM else None
        chosen = without_kernels(unquantised(text or config))
        return self.auto_class.from_config(chosen, **self.arguments, **self.remote)

    def plain(self, location: str, hub_id: str | None, revision: str | None, **more: Any) -> PreTrainedModel:
        """Stored weights without an adapter."""
        where = {"revision": revision} if hub_id and revision else {}
        require_own_weights(location)
        config = without_kernels(AutoConfig.from_pretrained(location, **self.remote, **where, **self.of_head))
        given = {**self.arguments, **self.place, **self.remote, **where}
        given |= {**turned_plain(config), **more}
        text = text_config(config) if self.auto_class is AutoModelForCausalLM else None
        if text is None:
            model = self.auto_class.from_pretrained(location, config=config, **given)
            return keeping_numbers(saved_plain(model) if turned_plain(config) else model)
        return keeping_numbers(text_model(location, text, given))

    def stacked(self, source: ModelSource, revision: str | None) -> PreTrainedModel:
        """The model with all adapters below merged into it."""
        from ftcli.worker.tuners.adapter_tensors import merged

        if not source.is_adapter:
            return self.plain(source.location, source.hub_id, revision)
        folder = Path(source.location)
        if self.of_head and head_of(folder) == "causal_lm":
            # The adapter was trained under a language-model head, and its tensors only match that model: merge there
            # first, then exchange the head.
            return self.anew(source, revision)
        declared = adapter_declares(folder)
        if reason := why_unmerged(str(declared.get("peft_type"))):
            what = f"{source.location} cannot be merged: {reason}"
            raise ConfigError(Problem("model.name_or_path", what, "start from its base model"))
        below = self.stacked(resolved_source(base_of(folder)), declared.get("revision"))
        model: Any = merged(with_adapter(below, folder), source.location, "start from its base model")
        # PEFT froze the base below the adapter; a full fine-tuning run may start from this model as well.
        model.requires_grad_(True)
        # A new adapter records this as its base: the whole stack, not the model at its bottom.
        model.name_or_path = source.location
        return model

    def quantised(
        self,
        source: ModelSource,
        revision: str | None,
        quantisation: QuantisationSettings,
        device: str,
        shard_dtype: str | None,
    ) -> PreTrainedModel:
        """The model with quantised linear layers, on its device; a stack is merged in full precision first."""
        how: dict[str, Any] = {"quantization_config": bitsandbytes_config(quantisation, self.auto_class, shard_dtype)}
        if shard_dtype is None:  # ZeRO-3 refuses a device_map; without one the layers go to the process's own device
            how["device_map"] = {"": torch.cuda.current_device() if device == "cuda" else "cpu"}
        if not source.is_adapter:
            return self.plain(source.location, source.hub_id, revision, **how)
        # The merged weights, which are not quantised yet, may be too large for the device.
        return replace(self, place={}).anew(source, revision, **how)

    def anew(self, source: ModelSource, revision: str | None, **how: Any) -> PreTrainedModel:
        """A stack, merged with the head that it was trained with, and loaded again with another head or quantised.

        Both the head and the quantisation are chosen while weights are loaded, so the merged model goes through a
        temporary folder.
        """
        plain_head = (
            {"auto_class": _HEADS["causal_lm"], "of_head": {}} if head_of(Path(source.location)) == "causal_lm" else {}
        )
        with tempfile.TemporaryDirectory() as folder:
            replace(self, **plain_head).stacked(source, revision).save_pretrained(folder)
            model: Any = self.plain(folder, None, None, **how)
        model.name_or_path = source.location
        return model
