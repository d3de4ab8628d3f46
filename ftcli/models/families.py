"""What each supported model class fixes in its code: the layout from which its modules are counted.

Transcribed from transformers 5.23's modelling files, because planning must not import torch. Tests compare it with the
installed transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
FOUR_NORMS = (*TWO_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a transformers model class fixes in its code, and the defaults of its config class."""

    tied: bool = False
    head_dim: int | None = None
    """Default width of a head; None divides hidden_size by the heads."""
    attention_bias: bool = False
    """Default of the config field."""
    biased: tuple[str, ...] = ("q", "k", "v", "o")
    """Projections that have a bias when attention_bias is set."""
    always_biased: bool = False
    mlp_bias: bool = False
    """Whether the model reads the config field mlp_bias."""
    fused: bool = False
    """One qkv_proj and one gate_up_proj in place of five projections."""
    norms: tuple[str, ...] = TWO_NORMS
    qk_norm: bool = False
    builder: str = "llama"
    """How the modules are named and laid out: llama, phi, gpt2 or opt."""
    inner_tensors: int = 4
    """Tensors of the feed-forward's width that its backward pass needs: gate, its activation, up, and their product;
    without a gate one under ReLU, whose output is enough, and five under GELU in its tanh form (gelu_new)."""
    num_readers: int = 5
    """Linear layers of a decoder layer that read its normed hidden state."""
    sdpa: bool = True
    """Whether scaled-dot-product attention computes this model's attention correctly."""
    peft_default: tuple[str, ...] = ("q_proj", "v_proj")
    """PEFT's target_modules for LoRA where a config names none; some of its tuners have tables of their own."""

    @property
    def has_layer_norms(self) -> bool:
        """Whether its norms are layer norms, with a bias, and not root-mean-square norms."""
        return self.builder != "llama"


# Keyed by model_type.
FAMILIES: dict[str, Family] = {
    "llama": Family(mlp_bias=True),
    "mistral": Family(biased=()),
    "qwen2": Family(biased=("q", "k", "v"), always_biased=True),
    "qwen3": Family(head_dim=128, qk_norm=True),
    "gemma": Family(tied=True, head_dim=256),
    "gemma2": Family(tied=True, head_dim=256, norms=FOUR_NORMS, sdpa=False),
    "gemma3_text": Family(tied=True, head_dim=256, norms=FOUR_NORMS, qk_norm=True),
    "phi": Family(
        builder="phi",
        norms=("input_layernorm",),
        inner_tensors=5,
        num_readers=4,
        peft_default=("q_proj", "v_proj", "fc1", "fc2"),
    ),
    "gpt2": Family(
        tied=True, builder="gpt2", norms=("ln_1", "ln_2"), inner_tensors=5, num_readers=2, peft_default=("c_attn",)
    ),
    "opt": Family(
        tied=True, builder="opt", norms=("self_attn_layer_norm", "final_layer_norm"), inner_tensors=1, num_readers=4
    ),
    "phi3": Family(biased=(), fused=True, peft_default=()),
    "smollm3": Family(tied=True, mlp_bias=True, peft_default=()),
    "gpt_oss": Family(head_dim=64, attention_bias=True, sdpa=False, peft_default=()),
    "deepseek_v2": Family(mlp_bias=True, peft_default=()),
    "deepseek_v3": Family(peft_default=()),
}


NUM_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts", "num_routed_experts")
"""The names that configurations give the number of routed experts."""
VISITED = ("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts", "experts_top_k")
"""The names that they give the number of those that a token visits."""


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts: `num_experts` routed ones, of which a token visits `num_experts_per_tok`."""

    num_experts: int
    num_experts_per_tok: int
    intermediate_size: int
    n_shared_experts: int = 0
    first_k_dense_replace: int = 0
    """Bottom layers that keep a dense feed-forward."""


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values pass through a low rank."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, kw_only=True)
class OptSwitches:
    """What an OPT configuration may switch off: the final norm (OPT-350m), every bias and norm weight (Galactica)."""

    word_embed_proj_dim: int
    """Width of word embeddings and head, with a projection on either side where it is not the hidden size."""
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    final_norm: bool = True
