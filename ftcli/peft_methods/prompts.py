"""Learned vectors in place of words: prompt tuning, P-tuning and prefix tuning, with the base untouched.

PEFT puts them before the input and nowhere else, so `p_tuning` has no setting for positions inside it (the templates
of Liu et al. 2021 had). Vectors at chosen places are trained as the embeddings of reserved tokens that stand there:
`peft=other peft.type=TRAINABLE_TOKENS peft.token_indices=[…]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftcli.core.errors import Problem
from ftcli.peft_methods.parameter_counts import p_tuning, prefix, prompt
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.limits import Limit

_NOT_WEIGHTS = "its vectors stand before the input and are no part of any weight"
_ACROSS = "PEFT puts its vectors before the row as a whole, so packed documents would attend to each other"
_CACHE = "its vectors reach the layers as a cache of keys and values, which gradient checkpointing does not carry"
# Fields of PromptLearningConfig that the model decides.
_OF_THE_MODEL = dict.fromkeys(
    ("token_dim", "num_attention_heads", "num_layers", "num_transformer_submodules"), "the model's own configuration"
)

_BASE = PeftMethod(
    name="prompt",
    kind="PROMPT_TUNING",
    summary="Learned vectors before the input: a few thousand parameters, for large models.",
    paper="Lester et al. 2021, arXiv:2104.08691",
    config="peft.tuners.prompt_tuning.config:PromptTuningConfig",
    defaults={"num_virtual_tokens": 20},
    owned={
        **_OF_THE_MODEL,
        "tokenizer_name_or_path": "model.name_or_path",
        "tokenizer_kwargs": "model.*",
    },
    limits={
        "num_virtual_tokens": Limit(low=1),
        "prompt_tuning_init": Limit(choices=("RANDOM", "SAMPLE_VOCAB", "TEXT")),
    },
    count=prompt,
    rate_factor=50,
    never_merges=_NOT_WEIGHTS,
    never_packs=_ACROSS,
)


def check_prompt(settings: Mapping[str, Any]) -> list[Problem]:
    """That a prompt which starts from words has them."""
    if settings.get("prompt_tuning_init") == "TEXT" and not settings.get("prompt_tuning_init_text"):
        what = "peft.prompt_tuning_init=TEXT starts from the words of peft.prompt_tuning_init_text, which is not set"
        return [Problem("peft.prompt_tuning_init", what, "peft.prompt_tuning_init_text='Answer the question.'")]
    return []


PROMPT = replace(_BASE, check=check_prompt, support="ftcli.worker.tuners.prompts:TextPrompt")

PREFIX = replace(
    _BASE,
    name="prefix",
    kind="PREFIX_TUNING",
    summary="Learned keys and values before every layer's own: more capacity than a prompt.",
    paper="Li & Liang 2021, arXiv:2101.00190",
    config="peft.tuners.prefix_tuning.config:PrefixTuningConfig",
    owned=_OF_THE_MODEL,
    limits={"num_virtual_tokens": Limit(low=1), "encoder_hidden_size": Limit(low=1)},
    count=prefix,
    never_checkpoints=_CACHE,
)


@dataclass(frozen=True, kw_only=True)
class PTuningSettings:
    """What P-tuning adds to PEFT's prompt encoder."""

    deep: bool = False
    """P-Tuning v2 (arXiv:2110.07602): learned keys and values in every layer, without an encoder."""


def _deep(method: PeftMethod, settings: Mapping[str, Any]) -> PeftMethod:
    """P-tuning, or under `deep` its second version, which is prefix tuning without the reparameterisation."""
    if not settings.get("deep"):
        return method
    return replace(
        method,
        kind=PREFIX.kind,
        config=PREFIX.config,
        defaults={"num_virtual_tokens": 20},
        owned={**PREFIX.owned, "prefix_projection": "peft=prefix: P-Tuning v2 has no projection"},
        limits={"num_virtual_tokens": Limit(low=1)},
        count=PREFIX.count,
        rate_factor=PREFIX.rate_factor,
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
    config="peft.tuners.p_tuning.config:PromptEncoderConfig",
    own="ftcli.peft_methods.prompts:PTuningSettings",
    defaults={"num_virtual_tokens": 20, "encoder_reparameterization_type": "MLP"},
    owned=_OF_THE_MODEL,
    limits={
        "num_virtual_tokens": Limit(low=1),
        "encoder_reparameterization_type": Limit(choices=("MLP", "LSTM")),
        "encoder_hidden_size": Limit(low=1),
        "encoder_num_layers": Limit(low=1),
        "encoder_dropout": Limit(low=0, high=1),
    },
    count=p_tuning,
    rate_factor=5,
    variant=_deep,
    support="ftcli.worker.tuners.prompts:PromptEncoder",
)

METHODS = (PREFIX, P_TUNING, PROMPT)
