"""Every causal-LM configuration of the installed transformers, small enough to train in seconds."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

EVERY = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
SPREAD = ("olmo3", "qwen3_moe", "mixtral", "gpt_neox", "qwen3_5", "gemma4_text", "granitemoe")
"""Dense, experts that PEFT renames in either way, a biased one, linear attention, per-layer widths, a linear router."""
TRAINED = ("qwen3_moe",)
"""Those of the spread that `make test` trains too."""

_MOE = {"num_experts_per_tok": 2, "n_routed_experts": 8, "n_group": 1, "topk_group": 1, "n_shared_experts": 1}
# Fields that a configuration class leaves at None and its model needs, and decoders that are encoders by default.
ENCODERS = (
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert",
    "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip
FILLED: dict[str, dict[str, Any]] = {
    **{name: {"is_decoder": True} for name in ENCODERS},
    "deepseek_v2": _MOE,
    "dots1": _MOE,
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "nemotron": {"head_dim": 128},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
}  # fmt: skip


def configuration(model_type: str) -> PreTrainedConfig:
    """The default configuration of a model type, completed."""
    return AutoConfig.for_model(model_type, **FILLED.get(model_type, {}))
