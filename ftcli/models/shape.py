"""The shape of a model: the sizes that its modules and parameters are counted from, without loading it.

Counts rest on ftcli/models/families.py, which tests compare with the installed transformers, and for an architecture
that is not listed there on what a worker measured. Until it did they are None ("unknown"), never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ftcli.models.families import FAMILIES, Experts, Family, LatentAttention, OptSwitches
from ftcli.models.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Architecture of one decoder, with the names of a Hugging Face config.json; sizes are element counts."""

    architecture: str
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool = False
    max_position_embeddings: int | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_layernorm: bool = False
    opt: OptSwitches | None = None
    experts: Experts | None = None
    latent_attention: LatentAttention | None = None
    num_parameters: int | None = None
    """As published or as stored; `num_parameters(shape)` counts it where the architecture is known."""

    layout: Layout | None = field(default=None, compare=False, repr=False)
    """What a worker measured of an architecture that is in no table."""

    @property
    def known(self) -> bool:
        """Whether the modules of this architecture are known, from the table or from a worker."""
        return self.layout is not None or self.model_type in FAMILIES

    @property
    def family(self) -> Family | None:
        """The table's entry of this architecture, if it has one."""
        return FAMILIES.get(self.model_type)

    @property
    def supports_sdpa(self) -> bool:
        """False where transformers refuses attn_implementation=sdpa (soft-capping, attention sinks)."""
        if self.layout is not None:
            return self.layout.sdpa
        return self.family is None or self.family.sdpa
