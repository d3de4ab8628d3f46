"""Every causal-LM configuration of the installed transformers, small enough to train in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

EVERY = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
SPREAD = ("olmo3", "qwen3_moe", "mixtral", "gpt_neox", "qwen3_5", "gemma4_text", "granitemoe")
"""Dense, experts that PEFT renames in either way, a biased one, linear attention, per-layer widths, a linear router."""
TRAINED = ("qwen3_moe",)
"""Those of the spread that `make test` trains too."""

_MOE = {"num_experts_per_tok": 2, "n_routed_experts": 8, "n_group": 1, "topk_group": 1, "n_shared_experts": 1}
_INDEXED = {
    "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 256,
    "indexer_budget": 64, "indexer_compress_ratio": 4,
}  # fmt: skip
# Fields that a configuration class leaves at None and its model needs, and decoders that are encoders by default.
ENCODERS = (
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert",
    "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip
FILLED: dict[str, dict[str, Any]] = {
    **{name: {"is_decoder": True} for name in ENCODERS},
    "deepseek_v2": _MOE,
    "dots1": _MOE,
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"clip_qkv": 8.0, "kv_n_heads": 8, "rope_theta": 500000.0}},
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 30,
        }
    },
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "nemotron": {"head_dim": 128, "num_key_value_heads": 8},
    "qwen4_exp": {"text_config": {"model_type": "qwen4_exp_text", **_INDEXED}},
    "qwen4_exp_text": _INDEXED,
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
}  # fmt: skip


@dataclass(frozen=True)
class Failing:
    """A failure that is known: should an upgrade mend it, its test fails and the entry can go."""

    error: str
    """A part of what is raised."""
    why: str
    """For people."""


_LOST = Failing("cannot load again", "its text model would be saved under a type that transformers cannot load again")
_SOUND = Failing(
    "has no attribute 'dropout'", "it writes sound, and transformers builds it from the wrong configuration"
)
FAILING = {
    "big_bird": Failing(
        "resumed, ",
        "its attention is built anew at the first short batch, which draws random numbers: a resumed run draws others",
    ),
    "emu3": _LOST,
    "mllama": _LOST,
    "musicgen": _SOUND,
    "musicgen_melody": _SOUND,
    "reformer": Failing("does not require grad", "its reversible layers hand no gradient on from frozen embeddings"),
    "zamba": Failing(
        "whose weight other layers share",
        "an adapter changes each use of its shared layer in its own way, which the one weight cannot hold merged; "
        "ftcli refuses to merge it",
    ),
}


def configuration(model_type: str) -> PreTrainedConfig:
    """The default configuration of a model type, completed."""
    return AutoConfig.for_model(model_type, **FILLED.get(model_type, {}))
