"""Learned vectors as virtual tokens: prompt tuning, P-tuning and prefix tuning, with the base frozen.

PEFT puts them before the input only, so `p_tuning` has no setting for positions inside it (as the templates of Liu et
al. 2021 have). To train vectors at other positions, put reserved tokens there and train their embeddings:
`peft=other peft.type=TRAINABLE_TOKENS peft.token_indices=[…]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftcli.core.errors import Problem
from ftcli.models.shape import Shape
from ftcli.peft_methods.parameter_counts import Settings, linear, whole_number, with_saved
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.limits import BELOW_ONE, Limit
from ftcli.settings.sharding import FSDP, ZERO
from ftcli.settings.sourced_defaults import Default

_P_TUNING = "peft.tuners.p_tuning.config:PromptEncoderConfig"
_NUM_VIRTUAL_TOKENS = 20
"""Our default: PEFT itself has none."""

_NOT_WEIGHTS = "its vectors are put before the input and are not part of any weight"
_ACROSS = "PEFT puts its vectors before the whole row, so packed documents would attend to each other"
_CACHE = "its vectors reach the layers as a key-value cache, which gradient checkpointing does not keep"
# Fields of PromptLearningConfig that the model decides.
_OF_THE_MODEL = dict.fromkeys(
    ("token_dim", "num_attention_heads", "num_layers", "num_transformer_submodules"), "the model's own configuration"
)


def count_prompt(shape: Shape, settings: Settings) -> int | None:
    """One vector per virtual token (Lester et al. 2021, arXiv:2104.08691)."""
    vectors = whole_number(settings, "num_virtual_tokens", _NUM_VIRTUAL_TOKENS) * _embedding_width(shape)
    return with_saved(shape, settings, vectors)


def count_prefix(shape: Shape, settings: Settings) -> int | None:
    """A key and a value per layer and virtual token: 2·L·p·d (Li & Liang 2021, arXiv:2101.00190, section 4.2).

    d is the total width of the key heads, smaller than the model's under grouped-query attention. With
    `prefix_projection` an MLP computes them, and all of it trains (section 4.3); the saved prefix is what it computed.
    """
    if shape.latent_attention is not None or not shape.known or settings.get("num_layers"):
        return None
    width = shape.num_key_value_heads * shape.head_dim
    tokens, wide = (
        whole_number(settings, "num_virtual_tokens", _NUM_VIRTUAL_TOKENS),
        2 * shape.num_hidden_layers * width,
    )
    if not settings.get("prefix_projection"):
        return with_saved(shape, settings, tokens * wide)
    inner = whole_number(settings, "encoder_hidden_size", width)
    return with_saved(shape, settings, tokens * width + linear(width, inner) + linear(inner, wide))


def count_p_tuning(shape: Shape, settings: Settings) -> int | None:
    """One vector per virtual token, and the encoder that maps it (Liu et al. 2021, arXiv:2103.10385, section 3.2)."""
    hidden, layers = _embedding_width(shape), whole_number(settings, "encoder_num_layers", _P_TUNING)
    inner = whole_number(settings, "encoder_hidden_size", hidden)
    vectors = whole_number(settings, "num_virtual_tokens", _NUM_VIRTUAL_TOKENS) * hidden
    kind = settings.get("encoder_reparameterization_type")
    if kind in (None, "MLP"):
        if kind and layers != 2:
            # PEFT tries to warn here, and fails where the type is given by name.
            raise ValueError(f"the MLP encoder always has two inner layers, not encoder_num_layers={layers}")
        return with_saved(
            shape, settings, vectors + linear(hidden, inner) + linear(inner, inner) + linear(inner, hidden)
        )
    # LSTM: two directions of four gates, each with weights for input and state and two biases; then two linear layers.
    sizes = [hidden] + [2 * inner] * (layers - 1)
    recurrent = sum(2 * 4 * inner * (size + inner + 2) for size in sizes)
    encoder = recurrent + linear(2 * inner, 2 * inner) + linear(2 * inner, hidden)
    return with_saved(shape, settings, vectors + encoder)


def _embedding_width(shape: Shape) -> int:
    """Width of the vectors that are put before the input.

    Raises:
        ValueError: PEFT makes them as wide as the model, whose embeddings have another width.
    """
    if shape.opt is not None and shape.opt.word_embed_proj_dim != shape.hidden_size:
        widths = f"{shape.hidden_size} wide, but this model's embeddings are {shape.opt.word_embed_proj_dim} wide"
        raise ValueError(f"PEFT's virtual tokens would be {widths}; peft=prefix and peft=lora work with any width")
    return shape.hidden_size


_OUTSIDE = "its vectors are read outside of the layers whose weights are gathered while they compute"
_BASE = PeftMethod(
    name="prompt",
    kind="PROMPT_TUNING",
    summary="Learned vectors before the input: a few thousand parameters, for large models.",
    paper="Lester et al. 2021, arXiv:2104.08691",
    config="peft.tuners.prompt_tuning.config:PromptTuningConfig",
    defaults={"num_virtual_tokens": _NUM_VIRTUAL_TOKENS},
    owned={
        **_OF_THE_MODEL,
        "tokenizer_name_or_path": "model.name_or_path",
        "tokenizer_kwargs": "model.*",
    },
    limits={
        "num_virtual_tokens": Limit(low=1),
        "prompt_tuning_init": Limit(choices=("RANDOM", "SAMPLE_VOCAB", "TEXT")),
    },
    count=count_prompt,
    sources={"num_virtual_tokens": Default(value=_NUM_VIRTUAL_TOKENS, source="Lester et al. 2021, section 3.2: 20")},
    rate_factor=Default(
        value=50,
        source="PEFT's guide to prompt tuning: 3e-2, for a model of 0.6B; Lester et al. 2021: 0.3, with Adafactor",
        measured="benchmarks/adapters.py: 0.3, a hundred times LoRA's",
    ),
    never_merges=_NOT_WEIGHTS,
    never_packs=_ACROSS,
    never_shards=lambda layout, settings: _OUTSIDE if layout in (FSDP, f"{ZERO}3") else "",
)


def check_prompt(settings: Mapping[str, Any]) -> list[Problem]:
    """A prompt that is initialised with text needs that text."""
    if settings.get("prompt_tuning_init") == "TEXT" and not settings.get("prompt_tuning_init_text"):
        what = "peft.prompt_tuning_init=TEXT needs peft.prompt_tuning_init_text, which is not set"
        return [Problem("peft.prompt_tuning_init", what, "peft.prompt_tuning_init_text='Answer the question.'")]
    return []


PROMPT = replace(_BASE, check=check_prompt, support="ftcli.worker.tuners.prompts:TextPrompt")


def _without_projection(method: PeftMethod, settings: Mapping[str, Any]) -> PeftMethod:
    """Prefix tuning, or without the MLP a rate that moves the vectors themselves far enough."""
    return method if settings.get("prefix_projection") else replace(method, rate_factor=_BASE.rate_factor, variant=None)


PREFIX = replace(
    _BASE,
    name="prefix",
    kind="PREFIX_TUNING",
    summary="Keys and values before those of every layer, made by an MLP in training: more capacity than a prompt.",
    paper="Li & Liang 2021, arXiv:2101.00190",
    config="peft.tuners.prefix_tuning.config:PrefixTuningConfig",
    owned=_OF_THE_MODEL,
    limits={"num_virtual_tokens": Limit(low=1), "encoder_hidden_size": Limit(low=1)},
    count=count_prefix,
    rate_factor=Default(
        value=1,
        source="Li & Liang 2021, section 5.3: the MLP makes far smaller rates enough; they take 5e-5 for GPT-2",
        measured="benchmarks/adapters.py: at LoRA's 0.003 the lowest loss of 0.001, 0.003, 0.005 and 0.01",
    ),
    variant=_without_projection,
    never_checkpoints=_CACHE,
)


@dataclass(frozen=True, kw_only=True)
class PTuningSettings:
    """What P-tuning adds to PEFT's prompt encoder."""

    deep: bool = False
    """P-Tuning v2 (arXiv:2110.07602): learned keys and values in every layer, without an encoder."""


def _deep(method: PeftMethod, settings: Mapping[str, Any]) -> PeftMethod:
    """P-tuning, or with `deep` P-Tuning v2, which is prefix tuning without the reparameterisation."""
    if not settings.get("deep"):
        return method
    return replace(
        method,
        kind=PREFIX.kind,
        config=PREFIX.config,
        defaults={"num_virtual_tokens": _NUM_VIRTUAL_TOKENS},
        owned={**PREFIX.owned, "prefix_projection": "peft=prefix: P-Tuning v2 has no projection"},
        limits={"num_virtual_tokens": Limit(low=1)},
        count=PREFIX.count,
        rate_factor=_BASE.rate_factor,
        never_checkpoints=PREFIX.never_checkpoints,
        variant=None,
        support=None,
    )


P_TUNING = replace(
    _BASE,
    name="p_tuning",
    kind="P_TUNING",
    summary="Learned vectors made by an MLP or LSTM encoder; deep=true puts them into every layer.",
    paper="Liu et al. 2021, arXiv:2103.10385; deep: arXiv:2110.07602",
    config=_P_TUNING,
    own="ftcli.peft_methods.prompts:PTuningSettings",
    defaults={"num_virtual_tokens": _NUM_VIRTUAL_TOKENS, "encoder_reparameterization_type": "MLP"},
    owned=_OF_THE_MODEL,
    limits={
        "num_virtual_tokens": Limit(low=1),
        "encoder_reparameterization_type": Limit(choices=("MLP", "LSTM")),
        "encoder_hidden_size": Limit(low=1),
        "encoder_num_layers": Limit(low=1),
        "encoder_dropout": BELOW_ONE,
    },
    count=count_p_tuning,
    rate_factor=Default(
        value=5,
        source="P-tuning's encoder trains at about 1e-3 (arXiv:2103.10385); without it as peft=prompt",
        measured="benchmarks/adapters.py: 0.005, 1.7 times LoRA's",
    ),
    variant=_deep,
    support="ftcli.worker.tuners.prompts:PromptEncoder",
)

METHODS = (PREFIX, P_TUNING, PROMPT)
