"""A model's config.json → its shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.models.families import (
    FAMILIES,
    NUM_EXPERTS,
    VISITED,
    Experts,
    Family,
    LatentAttention,
    OptSwitches,
)
from ftcli.models.layout import Layout
from ftcli.models.shape import Shape
from ftcli.models.stored_files import stored_parameters

MAX_LAYERS = 2_000
"""Layers of one stack: each becomes modules that are counted one by one. The deepest published model has 126."""
MAX_SIZE = 2**40
"""Any other size in a configuration, so that products of them stay numbers that can be printed."""
_OF_LAYERS = re.compile(r"layers?($|_)|num_blocks|depth")


def require_bounded(config: Mapping[str, Any], where: str) -> None:
    """Check that no size in a configuration, however deep, is one that no model has.

    Raises:
        ConfigError: every size beyond the limits.
    """
    problems = [
        Problem(
            f"{where}.{key}", f"is {shown}, and no model has more than {limit}", "take it from the model's own file"
        )
        for key, value in _numbers(config, "")
        if abs(value) > (limit := MAX_LAYERS if _OF_LAYERS.search(key.rpartition(".")[2]) else MAX_SIZE)
        for shown in [f"a number of {len(str(value))} digits" if abs(value) > MAX_SIZE else str(value)]
    ]
    if problems:
        raise ConfigError(*problems)


def _numbers(value: Any, key: str) -> Iterator[tuple[str, int]]:
    """Every whole number in a configuration, with its key; lists are passed over, since no size is one."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _numbers(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value


def shape_from_mapping(raw: Mapping[str, Any], where: str = "model.shape") -> Shape:
    """The shape that a config.json or the `shape` of a model file describes.

    Raises:
        ConfigError: a size is missing, not a positive whole number or beyond any model's, or a flag is not a boolean;
            reports all of them.
    """
    require_bounded(raw, where)
    return _Reader(raw, where).shape()


def shape_from_folder(path: Path) -> Shape | None:
    """The shape of the Hugging Face model in folder `path`; None when its config.json is missing or incomplete.

    A model with a nested text_config has other towers beside the text decoder: its sizes are the text's, its
    parameters are counted from the stored weights, and its modules are unknown.

    Raises:
        ConfigError: config.json exists but cannot be read, or has a size that no model has.
    """
    file = Path(path) / "config.json"
    try:
        raw = foreign_files.read_json(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(Problem(str(file), f"cannot be read: {error}", "save the model again")) from None
    if not isinstance(raw, dict):
        raise ConfigError(Problem(str(file), "is not a JSON object", "save the model again"))
    require_bounded(raw, str(file))
    reader = _Reader(raw, str(file))
    try:
        shape = reader.shape()
    except ConfigError:
        return None
    if shape.known:
        return shape
    return replace(shape, num_parameters=stored_parameters(Path(path)))


def shape_from_layout(layout: Layout, config: Mapping[str, Any], read: Shape | None) -> Shape:
    """The shape of a measured model; its sizes come from the configuration class, else from what was `read`."""
    sizes = layout.sizes

    def size(name: str, default: int) -> int:
        return int(sizes.get(name) or (getattr(read, name) if read else None) or default)

    hidden, heads = size("hidden_size", 1), size("num_attention_heads", 1)
    experts = None
    if sizes.get("num_experts"):
        experts = Experts(
            num_experts=int(sizes["num_experts"]),
            num_experts_per_tok=next((int(sizes[name]) for name in VISITED if sizes.get(name)), 1),
            intermediate_size=size_of(sizes, "moe_intermediate_size", size("intermediate_size", 1)),
            n_shared_experts=size_of(sizes, "n_shared_experts", 0),
        )
    return Shape(
        architecture=str(sizes.get("architecture", "unknown")),
        model_type=str(config.get("model_type", "unknown")),
        hidden_size=hidden,
        num_hidden_layers=size("num_hidden_layers", 1),
        num_attention_heads=heads,
        num_key_value_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", max(1, hidden // heads)),
        intermediate_size=size("intermediate_size", 4 * hidden),
        vocab_size=size("vocab_size", 1),
        tie_word_embeddings=bool(sizes.get("tie_word_embeddings")),
        max_position_embeddings=sizes.get("max_position_embeddings"),
        experts=experts,
        layout=layout,
    )


def size_of(sizes: Mapping[str, Any], name: str, default: int) -> int:
    """A measured size; the default where the configuration class has none of that name."""
    return int(sizes.get(name) or default)


class _Reader:
    """Reads sizes from a mapping and collects every problem before it raises."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        text = raw.get("text_config")
        nested = text if isinstance(text, Mapping) else {}
        # In a multimodal config the text decoder's sizes are nested, while the architecture is named at the top.
        self.outer, self.where, self.problems = raw, where, list[Problem]()
        # A group file keeps these in mappings of their own; config.json has the same keys at the top.
        groups = [raw.get("more"), raw.get("experts"), raw.get("latent_attention")]
        self.values: dict[str, Any] = {**raw, **nested}
        for group in groups:
            self.values.update(group if isinstance(group, Mapping) else {})
        self.family = FAMILIES.get(str(self.values.get("model_type")), Family())

    def size(self, *keys: str, default: int | None = None, zero: bool = False) -> int:
        """The first of `keys` that is set; 1 stands in for a value that was reported as a problem."""
        key = next((k for k in keys if self.values.get(k) is not None), keys[0])
        value = self.values.get(key, default)
        value = default if value is None else value
        if isinstance(value, int) and not isinstance(value, bool) and value >= (0 if zero else 1):
            return value
        what = "is missing" if value is None else f"must be a positive whole number, not {value!r}"
        self.problems.append(Problem(f"{self.where}.{key}", what, "take the value from the model's config.json"))
        return 1

    def flag(self, key: str, default: bool) -> bool:
        """A boolean field; the default stands in for a value that was reported as a problem."""
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.problems.append(Problem(f"{self.where}.{key}", f"must be true or false, not {value!r}"))
        return default

    def shape(self) -> Shape:
        """The whole shape.

        Raises:
            ConfigError: every problem met on the way.
        """
        heads = self.size("num_attention_heads", "n_head")
        hidden = self.size("hidden_size", "n_embd")
        named = self.outer.get("architectures")
        architecture = named[0] if isinstance(named, list) and named else self.outer.get("architecture")
        limit = self.values.get("max_position_embeddings", self.values.get("n_positions"))
        published = self.values.get("num_parameters")
        latent = self.latent_attention()
        # Latent attention rotates only part of each head; config.json calls that part head_dim where it names one.
        head_dim = latent.qk_rope_head_dim if latent else self.family.head_dim or max(1, hidden // heads)
        shape = Shape(
            architecture=str(architecture or "unknown"),
            model_type=self.model_type(),
            hidden_size=hidden,
            num_hidden_layers=self.size("num_hidden_layers", "n_layer"),
            num_attention_heads=heads,
            num_key_value_heads=self.size("num_key_value_heads", default=heads),
            head_dim=self.size("head_dim", default=head_dim),
            intermediate_size=self.inner(hidden),
            vocab_size=self.size("vocab_size"),
            tie_word_embeddings=self.flag("tie_word_embeddings", self.family.tied),
            max_position_embeddings=None if limit is None else self.size("max_position_embeddings", "n_positions"),
            attention_bias=self.flag("attention_bias", self.family.attention_bias),
            mlp_bias=self.flag("mlp_bias", False),
            qk_layernorm=self.flag("qk_layernorm", False),
            opt=self.opt(hidden),
            experts=self.experts(),
            latent_attention=latent,
            num_parameters=None if published is None else self.size("num_parameters"),
        )
        if self.problems:
            raise ConfigError(*self.problems)
        return shape

    def model_type(self) -> str:
        """The model type, renamed for a decoder with cross-attention: no known layout has those modules."""
        name = str(self.outer.get("model_type", "unknown"))
        return f"{name}-with-cross-attention" if self.values.get("add_cross_attention") else name

    def opt(self, hidden: int) -> OptSwitches | None:
        """What the configuration of an OPT model switches off; None for other models, which ignore these fields."""
        if self.outer.get("model_type") != "opt":
            return None
        return OptSwitches(
            word_embed_proj_dim=self.size("word_embed_proj_dim", default=hidden),
            enable_bias=self.flag("enable_bias", True),
            layer_norm_elementwise_affine=self.flag("layer_norm_elementwise_affine", True),
            final_norm=self.flag("do_layer_norm_before", True) and not self.flag("_remove_final_layer_norm", False),
        )

    def inner(self, hidden: int) -> int:
        """Width of the feed-forward, which GPT-2's configuration may omit."""
        if self.outer.get("model_type") == "gpt2":
            return self.size("n_inner", default=4 * hidden)
        return self.size("intermediate_size", "ffn_dim")

    def experts(self) -> Experts | None:
        """The mixture of experts, under the name that each family gives their number; None for a dense model."""
        if not any(self.values.get(name) for name in NUM_EXPERTS):  # some dense models say that they have 0
            return None
        return Experts(
            num_experts=self.size(*NUM_EXPERTS),
            num_experts_per_tok=self.size(*VISITED),
            intermediate_size=self.size("moe_intermediate_size", "intermediate_size"),
            n_shared_experts=self.size("n_shared_experts", default=0, zero=True),
            first_k_dense_replace=self.size("first_k_dense_replace", default=0, zero=True),
        )

    def latent_attention(self) -> LatentAttention | None:
        """The ranks of latent attention; None without a low-rank key-value projection."""
        if self.values.get("kv_lora_rank") is None:
            return None
        rank = self.values.get("q_lora_rank")
        return LatentAttention(
            q_lora_rank=None if rank is None else self.size("q_lora_rank"),
            kv_lora_rank=self.size("kv_lora_rank"),
            qk_nope_head_dim=self.size("qk_nope_head_dim"),
            qk_rope_head_dim=self.size("qk_rope_head_dim"),
            v_head_dim=self.size("v_head_dim"),
        )
