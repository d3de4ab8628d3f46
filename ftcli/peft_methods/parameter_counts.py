"""How many parameters each adapter trains, counted from the model's layout and the settings as PEFT reads them.

Every function takes a shape and the run's `peft` settings, answers None where the number cannot be known, and raises
ValueError, with what the model has, where the settings name what it has not. Tests hold each against PEFT itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftcli.models.families import FAMILIES
from ftcli.models.modules import Module, modules
from ftcli.models.shape import Shape
from ftcli.peft_methods.lora_counts import beside, choose, lora_parameters, refuse_layers_of_a_pattern, whole_modules
from ftcli.peft_methods.target_modules import compiled, ends_with, listing

Settings = Mapping[str, Any]

# Settings whose effect on the count is not written down here: under any of them the count is None.
UNCOUNTED = (
    "target_parameters", "layer_replication", "layers_pattern", "trainable_token_indices",
    "alora_invocation_tokens", "use_bdlora", "arrow_config", "eva_config", "kasa_config", "monteclora_config",
    "megatron_config", "token_dim", "num_transformer_submodules", "num_attention_heads",
)  # fmt: skip

_QUERY_VALUE = ("q_proj", "v_proj")

# PEFT's own targets by the model's type, where they differ from LoRA's (peft/utils/constants.py, 0.21).
VERA_TARGETS: Mapping[str, Sequence[str]] = {"phi": _QUERY_VALUE}
ADALORA_TARGETS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _QUERY_VALUE),
    "gpt2": ("c_attn",),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}
# The last of each is the one whose inputs are scaled. Where the paper has keys, PEFT has queries in some families.
IA3_TARGETS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("llama", "mistral"), ("k_proj", "v_proj", "down_proj")),
    **dict.fromkeys(("qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), ("q_proj", "v_proj", "down_proj")),
    "phi": ("q_proj", "v_proj", "fc2"),
    "gpt2": ("c_attn", "mlp.c_proj"),
    "opt": ("q_proj", "k_proj", "fc2"),
}

BOTTLENECKS: Mapping[str, tuple[str, str]] = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "phi": ("self_attn.dense", "mlp.fc2"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "opt": ("self_attn.out_proj", "fc2"),
}
"""Where bottleneck adapters stand, by the layout's builder: behind the last layer of attention and of feed-forward."""


def lora(shape: Shape, settings: Settings) -> int | None:
    """r × (in + out) a module (Hu et al. 2021, arXiv:2106.09685, section 4.1), with DoRA's magnitudes."""
    # EVA hands ranks from one layer to another by what it sees of the data.
    if _unknown(shape, settings) or settings.get("init_lora_weights") == "eva":
        return None
    _refuse_start(settings)
    fields = (
        "bias", "use_dora", "lora_bias", "exclude_modules", "layers_to_transform", "rank_pattern",
        "ensure_weight_tying",
    )  # fmt: skip
    options = {name: settings[name] for name in fields if settings.get(name) is not None}
    saved = settings.get("modules_to_save") or ()
    return lora_parameters(
        shape, _whole(settings, "r", 8), settings.get("target_modules"), modules_to_save=saved, **options
    )


def _refuse_start(settings: Settings) -> None:
    """Refuse what PEFT's LoRA cannot start from.

    Raises:
        ValueError: `init_lora_weights` does not go with lora_bias, or with a rank.
    """
    start = settings.get("init_lora_weights")
    if settings.get("lora_bias") and not isinstance(start, bool | None):
        raise ValueError(f"PEFT's LoRA takes lora_bias with no start but its own, not init_lora_weights={start}")
    ranks = [_whole(settings, "r", 8), *(settings.get("rank_pattern") or {}).values()]
    if start == "orthogonal" and (odd := [rank for rank in ranks if rank % 2]):
        raise ValueError(f"init_lora_weights=orthogonal wants even ranks, not {odd[0]}")


def adalora(shape: Shape, settings: Settings) -> int | None:
    """The singular form P Λ Q before pruning: r × (in + out + 1) (Zhang et al. 2023, arXiv:2303.10512, eq. 3).

    The rank that is left, PEFT's `ranknum`, is one more parameter a module, but is frozen and not counted.
    """
    if settings.get("use_dora"):
        raise ValueError("PEFT's AdaLoRA does not go with use_dora")
    refuse_layers_of_a_pattern(settings.get("target_modules"), settings.get("layers_to_transform"))
    rank = _whole(settings, "init_r", 12)
    default = ADALORA_TARGETS.get(shape.model_type, ())
    return _sum(shape, settings, lambda module: rank * (module.in_features + module.out_features + 1), default)


def vera(shape: Shape, settings: Settings) -> int | None:
    """Two vectors a module, r + out; the matrices between them are frozen (arXiv:2310.11454, section 3.2)."""
    rank = _whole(settings, "r", 256)
    return _sum(shape, settings, lambda module: rank + module.out_features, VERA_TARGETS.get(shape.model_type))


def oft(shape: Shape, settings: Settings) -> int | None:
    """A skew-symmetric matrix, b(b − 1)/2, for each of in / b blocks (Qiu et al. 2023, arXiv:2306.07280, section 3).

    An embedding is rotated in its output, which the layout has as its `in_features`.
    """
    number, side = _whole(settings, "r", 0), _whole(settings, "oft_block_size", 32)
    if (number == 0) == (side == 0):
        raise ValueError("oft wants one of r and oft_block_size, and the other 0")

    def angles(module: Module) -> int:
        if FAMILIES[shape.model_type].builder == "gpt2" and module.kind == "linear" and module.name != "lm_head":
            raise ValueError("PEFT's oft rotates nn.Linear only, and GPT-2's layers are Conv1D")
        width = module.in_features
        wide = _divisor(width, side) if side else width // _divisor(width, number)
        blocks = 1 if settings.get("block_share") else width // wide
        return blocks * wide * (wide - 1) // 2

    return _sum(shape, settings, angles, kinds=("linear", "embedding"))


def _divisor(width: int, wanted: int) -> int:
    """The divisor of `width` nearest to what was asked for, the lower of two, as PEFT adjusts block sizes."""
    if wanted <= width and width % wanted == 0:
        return wanted
    divisors = [number for number in range(1, width + 1) if width % number == 0]
    above = next((number for number in divisors if number >= wanted), width)
    below = max((number for number in divisors if number <= wanted), default=1)
    return below if wanted - below <= above - wanted else above


def ia3(shape: Shape, settings: Settings) -> int | None:
    """One vector a module: of its inputs in the feed-forward, of its outputs elsewhere (arXiv:2205.05638, eq. 1)."""
    if not shape.known:
        return None
    default = IA3_TARGETS.get(shape.model_type, ())
    inside, targets = settings.get("feedforward_modules"), settings.get("target_modules")
    if inside is None:
        inside = default[-1:]
        if targets is not None and not inside:
            raise ValueError(f"PEFT has no default for {shape.model_type}; name feedforward_modules, or [] for none")
    elif not isinstance(inside, str) and not isinstance(targets, str | None) and set(inside) - set(targets):
        wrong = min(set(inside) - set(targets))
        raise ValueError(f"{wrong!r} in feedforward_modules is not in target_modules; PEFT wants all of them there")
    # Unlike targets, these are ends of names even in mid-word.
    pattern = compiled(inside) if isinstance(inside, str) else re.compile(rf".*({'|'.join(map(re.escape, inside))})")

    def vector(module: Module) -> int:
        scaled = bool(inside) and pattern.fullmatch(module.name) is not None
        return module.in_features if scaled else module.out_features

    return _sum(shape, settings, vector, default)


def ia3_targets(shape: Shape) -> tuple[list[str], list[str]] | None:
    """Names whose outputs IA³ scales (keys, values) and names whose inputs (the feed-forward's last layer)."""
    if not shape.known or shape.experts or shape.latent_attention:
        return None
    family = FAMILIES[shape.model_type]
    if family.builder == "gpt2":
        return ["attn.c_attn"], ["mlp.c_proj"]  # queries share one projection with keys and values
    keys = ["qkv_proj"] if family.fused else ["k_proj", "v_proj"]
    return keys, ["down_proj"] if family.builder == "llama" else ["fc2"]


def prompt(shape: Shape, settings: Settings) -> int | None:
    """A vector a virtual token (Lester et al. 2021, arXiv:2104.08691)."""
    vectors = _whole(settings, "num_virtual_tokens", 20) * _word_width(shape)
    return _with_saved(shape, settings, vectors)


def prefix(shape: Shape, settings: Settings) -> int | None:
    """A key and a value a layer and virtual token: 2·L·p·d (Li & Liang 2021, arXiv:2101.00190, section 4.2).

    d is the width of all key heads, which grouped queries make smaller than the model's. With `prefix_projection` they
    come out of an MLP.
    """
    if shape.latent_attention is not None or not shape.known or settings.get("num_layers"):
        return None
    width = shape.num_key_value_heads * shape.head_dim
    tokens, wide = _whole(settings, "num_virtual_tokens", 20), 2 * shape.num_hidden_layers * width
    if not settings.get("prefix_projection"):
        return _with_saved(shape, settings, tokens * wide)
    inner = _whole(settings, "encoder_hidden_size", width)
    return _with_saved(shape, settings, tokens * width + _linear(width, inner) + _linear(inner, wide))


def p_tuning(shape: Shape, settings: Settings) -> int | None:
    """A vector a virtual token and the encoder that turns it (Liu et al. 2021, arXiv:2103.10385, section 3.2)."""
    hidden, layers = _word_width(shape), _whole(settings, "encoder_num_layers", 2)
    inner = _whole(settings, "encoder_hidden_size", hidden)
    vectors = _whole(settings, "num_virtual_tokens", 20) * hidden
    kind = settings.get("encoder_reparameterization_type")
    if kind in (None, "MLP"):
        if kind and layers != 2:
            # PEFT means to warn here, and fails on a type that is given by its name.
            raise ValueError(f"the MLP encoder has two inner layers always, not encoder_num_layers={layers}")
        return _with_saved(
            shape, settings, vectors + _linear(hidden, inner) + _linear(inner, inner) + _linear(inner, hidden)
        )
    # Two directions of four gates, each with weights from input and state and two biases; then two layers.
    sizes = [hidden] + [2 * inner] * (layers - 1)
    recurrent = sum(2 * 4 * inner * (size + inner + 2) for size in sizes)
    encoder = recurrent + _linear(2 * inner, 2 * inner) + _linear(2 * inner, hidden)
    return _with_saved(shape, settings, vectors + encoder)


def _word_width(shape: Shape) -> int:
    """Width of the vectors that stand before the input.

    Raises:
        ValueError: PEFT makes them as wide as the model, whose words are of another width.
    """
    if shape.opt is not None and shape.opt.word_embed_proj_dim != shape.hidden_size:
        widths = f"{shape.hidden_size} wide, and the words of this model {shape.opt.word_embed_proj_dim}"
        raise ValueError(f"PEFT's virtual tokens would be {widths}; peft=prefix or peft=lora takes any width")
    return shape.hidden_size


def _with_saved(shape: Shape, settings: Settings, vectors: int) -> int | None:
    """The vectors and the modules that train whole beside them."""
    entries = settings.get("modules_to_save")
    if _has_uncounted(settings) or (entries and not shape.known):
        return None
    return vectors + (beside(shape, (), whole_modules(shape, entries)) if entries else 0)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def bottleneck(shape: Shape, settings: Settings) -> int | None:
    """2·d·m + d + m for each adapter (Houlsby et al. 2019, arXiv:1902.00751, section 2.1); two a layer, or one."""
    if shape.experts is not None and settings.get("target_modules") is None:
        raise ValueError(f"{shape.architecture} has experts in its feed-forward; name target_modules")
    if not shape.known:
        return None
    refuse_layers_of_a_pattern(settings.get("target_modules"), settings.get("layers_to_transform"))
    both = BOTTLENECKS[FAMILIES[shape.model_type].builder]
    default = both[1:] if settings.get("placement") == "pfeiffer" else both
    asked, factor = settings.get("bottleneck_size"), settings.get("reduction_factor")

    def adapter(module: Module) -> int:
        width = module.in_features if module.kind == "embedding" else module.out_features
        inner = int(asked) if asked else max(1, int(width / float(16 if factor is None else factor)))
        return _linear(width, inner) + _linear(inner, width)

    return _sum(shape, settings, adapter, default, kinds=("linear", "embedding"))


def freeze(shape: Shape, settings: Settings) -> int | None:
    """All parameters of the top layers and of the modules that are named; weights that are shared count once."""
    if not shape.known:
        return None
    named, known = settings.get("modules") or (), modules(shape)
    for entry in named:
        if not any(_within(module, [entry]) for module in known):
            raise ValueError(f"{entry!r} in modules names no module; " + listing(shape))
    top, layers = _whole(settings, "num_layers", 2), shape.num_hidden_layers
    if top > layers:
        raise ValueError(f"num_layers={top} is more than the {layers} layers that the model has")
    first = layers - top
    chosen = [module for module in known if _layer_of(module) >= first or _within(module, named)]
    total = sum(module.num_own_parameters for module in chosen)
    # Whoever names a head that shares the words' weight sets that weight free.
    words = next(module for module in known if module.kind == "embedding")
    return total + words.num_parameters * (words not in chosen and any(module.tied for module in chosen))


def _layer_of(module: Module) -> int:
    """The number of its decoder layer; -1 outside of all."""
    return next((int(part) for part in module.name.split(".") if part.isdecimal()), -1)


def _within(module: Module, entries: Sequence[str]) -> bool:
    """Whether an entry names the module or one that holds it."""
    parts = module.name.split(".")
    depths = range(1, len(parts) + module.is_module)
    return any(ends_with(".".join(parts[:depth]), entries) for depth in depths)


def _whole(settings: Settings, name: str, default: int) -> int:
    """A whole number of the settings; one that is not set, or null, is the default."""
    value = settings.get(name)
    return default if value is None else int(value)


def _has_uncounted(settings: Settings) -> bool:
    return any(settings.get(name) for name in UNCOUNTED)


def _unknown(shape: Shape, settings: Settings) -> bool:
    return not shape.known or _has_uncounted(settings)


def _sum(
    shape: Shape,
    settings: Settings,
    size: Callable[[Module], int],
    default: Sequence[str] | None = None,
    kinds: Sequence[str] = ("linear",),
) -> int | None:
    """The sizes of all adapted modules, with whole modules that train beside them and biases that are set free.

    Args:
        size: elements of one module's adapter.
        default: PEFT's targets for this tuner where the settings name none; None for those of LoRA.
        kinds: the kinds of modules that carry the adapter.
    """
    if _unknown(shape, settings):
        return None
    adapted, saved = choose(
        shape,
        settings.get("target_modules"),
        settings.get("modules_to_save"),
        exclude_modules=settings.get("exclude_modules"),
        layers=settings.get("layers_to_transform"),
        default=default,
        tying=bool(settings.get("ensure_weight_tying")),
    )
    if wrong := [module.leaf for module in adapted if module.kind not in kinds]:
        raise ValueError(f"{wrong[0]} cannot carry this adapter, only linear layers can; " + listing(shape))
    total = sum(size(module) * module.num_stacked for module in adapted)
    return total + beside(shape, adapted, saved, str(settings.get("bias") or "none"))
