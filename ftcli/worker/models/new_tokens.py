"""`model.new_tokens`: tokens added to a tokenizer, and their rows in the embeddings of a model.

A new row starts as the mean of the rows of all other tokens (Hewitt 2021, "Initializing New Word Embeddings for
Pretrained Language Models"): then no new token is more likely than an average one. The start is the same in every
process and at every load, so a reference and a resumed run begin with the rows that the run began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import AddedToken
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ftcli.core.errors import ConfigError, Problem
from ftcli.models.sources import adapter_declares

_ADAPTER = "adapter_model.safetensors"


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Add tokens to a vocabulary. One that the chat template writes is a control token, the others are text.

    Raises:
        ConfigError: one is in the vocabulary already.
    """
    known = tokenizer.get_vocab()
    if present := [token for token in tokens if token in known]:
        what = f"{', '.join(present)} is in the vocabulary already, so nothing would be added"
        raise ConfigError(Problem("model.new_tokens", what, "remove it from the list"))
    template = str(tokenizer.chat_template or "")
    # Answers are decoded without control tokens, so a token that is part of the text must be none.
    control = {token: token in template for token in tokens}
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token, special in control.items()])


def grow(model: Any, first: int, size: int) -> None:
    """Give the tokens with ids from `first` to `size` (exclusive) rows of the embeddings, each the mean of those before
    them; the matrix grows only where it has too few rows."""
    if size > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for layer in _layers_with_rows(model):
            rows = layer.weight[:first]
            # A sum over so many rows needs fp32.
            layer.weight[first:size] = rows.float().mean(dim=0).to(rows.dtype)
            if getattr(layer, "bias", None) is not None:
                layer.bias[first:size] = layer.bias[:first].float().mean().to(layer.bias.dtype)


def grow_for_adapter(model: Any, folder: Path) -> None:
    """Give a base the rows of the embeddings that a saved adapter has trained."""
    needed = _rows_needed(model, folder)
    rows = model.get_input_embeddings().weight.shape[0]
    if needed > rows:
        grow(model, rows, needed)


def _rows_needed(model: Any, folder: Path) -> int:
    """How many tokens an adapter's own rows reach; 0 if it has none."""
    declared = adapter_declares(folder)
    indices = declared.get("trainable_token_indices") or {}
    listed = indices.values() if isinstance(indices, dict) else [indices]
    needed = max((max(each) + 1 for each in listed if each), default=0)
    if (folder / _ADAPTER).is_file():  # or whole embeddings
        own = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
        with safe_open(folder / _ADAPTER, "pt") as stored:
            names = [name for name in stored.keys() if name.endswith(f"{own}.weight")]  # noqa: SIM118 - no mapping
            needed = max([needed, *(stored.get_slice(name).get_shape()[0] for name in names)])
    return needed


def readable_head(model: Any) -> Any:
    """The model, with the bias of an output head whose rows PEFT trains where a fused loss reads it, beside the weight:
    PEFT's wrapper passes on the weight only."""
    for module in model.modules():
        if type(module).__name__ == "TrainableTokensWrapper" and hasattr(module.original_module, "bias"):
            vars(module)["bias"] = module.original_module.bias  # not as a parameter of its own
    return model


def saving_rows_only(model: Any) -> Any:
    """The model; saved as an adapter, it leaves out the embeddings of which it has trained a few rows.

    PEFT would add the whole matrix because it has grown: 670 MB for Gemma's 262,000 tokens.
    """
    configs = getattr(model, "peft_config", {}).values()
    if any(getattr(each, "trainable_token_indices", None) for each in configs):
        model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model


def train_rows(peft: Any, model: Any, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Make a PEFT config train the rows of new tokens, in each layer that it does not train whole anyway."""
    whole = set(peft.modules_to_save or ())
    rows = trained_rows(model, tokenizer, tokens)
    peft.trainable_token_indices = {name: ids for name, ids in rows.items() if name not in whole} or None


def trained_rows(model: Any, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> dict[str, list[int]]:
    """The ids of new tokens by the name of each layer that has rows for them, as PEFT takes them."""
    ids = [int(number) for number in tokenizer.convert_tokens_to_ids(list(tokens))]
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    return {names[id(layer)]: ids for layer in _layers_with_rows(model)}


def _layers_with_rows(model: Any) -> list[Any]:
    """The layers with a row for each token: the embeddings, and a head that does not share their weight."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    return [embeddings] if head is None or head.weight is embeddings.weight else [embeddings, head]


def check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings.

    Raises:
        ConfigError: the tokenizer is larger than the embedding.
    """
    weight = model.get_input_embeddings().weight
    rows = getattr(weight, "ds_shape", weight.shape)[
        0
    ]  # under ZeRO-3 the weight is sharded, and this is its full shape
    if len(tokenizer) > rows:
        what = f"the tokenizer has {len(tokenizer)} tokens, the model has {rows} embeddings"
        raise ConfigError(Problem("model.name_or_path", what, "use the tokenizer that belongs to the model"))
