"""How many parameters each adapter trains, counted from the model's layout and the settings as PEFT reads them.

Every function takes a shape and the run's `peft` settings, answers None where the number cannot be known, and raises
ValueError, with what the model has, where the settings name what it has not. Tests hold each against PEFT itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftcli.layout import FAMILIES, Module, modules
from ftcli.lora import lora_parameters
from ftcli.shapes import Shape
from ftcli.targets import ends_with, in_layers, is_excluded, listing, saved_modules, targeted, trained_biases

Settings = Mapping[str, Any]

# Settings whose effect on the count is not written down here.
UNCOUNTED = (
    "target_parameters", "layer_replication", "layers_pattern", "trainable_token_indices", "ensure_weight_tying",
    "alora_invocation_tokens", "use_bdlora", "arrow_config",
)  # fmt: skip

BOTTLENECKS: Mapping[str, tuple[str, str]] = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "phi": ("self_attn.dense", "mlp.fc2"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "opt": ("self_attn.out_proj", "fc2"),
}
"""Where bottleneck adapters stand, by the layout's builder: behind the last layer of attention and of feed-forward."""


def lora(shape: Shape, settings: Settings) -> int | None:
    """r × (in + out) a module (Hu et al. 2021, arXiv:2106.09685, section 4.1), with DoRA's magnitudes."""
    if _unknown(shape, settings):
        return None
    fields = ("bias", "use_dora", "lora_bias", "exclude_modules", "layers_to_transform", "rank_pattern")
    options = {name: settings[name] for name in fields if settings.get(name) is not None}
    saved = settings.get("modules_to_save") or ()
    return lora_parameters(
        shape, int(settings.get("r", 8)), settings.get("target_modules"), modules_to_save=saved, **options
    )


def adalora(shape: Shape, settings: Settings) -> int | None:
    """The singular form P Λ Q before pruning: r × (in + out + 1) (Zhang et al. 2023, arXiv:2303.10512, eq. 3)."""
    rank = int(settings.get("init_r", 12))
    return _sum(shape, settings, lambda module: rank * (module.in_features + module.out_features + 1))


def vera(shape: Shape, settings: Settings) -> int | None:
    """Two vectors a module, r + out; the matrices between them are frozen (arXiv:2310.11454, section 3.2)."""
    rank = int(settings.get("r", 256))
    return _sum(shape, settings, lambda module: rank + module.out_features)


def oft(shape: Shape, settings: Settings) -> int | None:
    """A skew-symmetric matrix, b(b − 1)/2, for each of in / b blocks (Qiu et al. 2023, arXiv:2306.07280, section 3)."""
    if shape.known and FAMILIES[shape.model_type].builder == "gpt2":
        raise ValueError("PEFT's oft rotates nn.Linear only, and GPT-2's layers are Conv1D")
    number, side = int(settings.get("r", 0)), int(settings.get("oft_block_size", 32))
    if (number == 0) == (side == 0):
        raise ValueError("oft wants one of r and oft_block_size, and the other 0")

    def angles(module: Module) -> int:
        width = module.in_features
        wide = _divisor(width, side) if side else width // _divisor(width, number)
        blocks = 1 if settings.get("block_share") else width // wide
        return blocks * wide * (wide - 1) // 2

    return _sum(shape, settings, angles)


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
    inside = settings.get("feedforward_modules") or ()

    def vector(module: Module) -> int:
        return module.in_features if ends_with(module.name, inside) else module.out_features

    return _sum(shape, settings, vector)


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
    return int(settings.get("num_virtual_tokens", 20)) * shape.hidden_size


def prefix(shape: Shape, settings: Settings) -> int | None:
    """A key and a value a layer and virtual token: 2·L·p·d (Li & Liang 2021, arXiv:2101.00190, section 4.2).

    d is the width of all key heads, which grouped queries make smaller than the model's. With `prefix_projection` they
    come out of an MLP.
    """
    if shape.latent_attention is not None or not shape.known:
        return None
    width = shape.num_key_value_heads * shape.head_dim
    tokens, wide = int(settings.get("num_virtual_tokens", 20)), 2 * shape.num_hidden_layers * width
    if not settings.get("prefix_projection"):
        return tokens * wide
    inner = int(settings.get("encoder_hidden_size") or width)
    return tokens * width + width * inner + inner + inner * wide + wide


def p_tuning(shape: Shape, settings: Settings) -> int | None:
    """A vector a virtual token and the encoder that turns it (Liu et al. 2021, arXiv:2103.10385, section 3.2)."""
    hidden = shape.hidden_size
    inner = int(settings.get("encoder_hidden_size") or hidden)
    vectors = int(settings.get("num_virtual_tokens", 20)) * hidden
    if settings.get("encoder_reparameterization_type", "MLP") == "MLP":
        return vectors + _linear(hidden, inner) + _linear(inner, inner) + _linear(inner, hidden)
    # Two directions of four gates, each with weights from input and state and two biases; then two layers.
    layers = int(settings.get("encoder_num_layers", 2))
    sizes = [hidden] + [2 * inner] * (layers - 1)
    recurrent = sum(2 * 4 * inner * (size + inner + 2) for size in sizes)
    return vectors + recurrent + _linear(2 * inner, 2 * inner) + _linear(2 * inner, hidden)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def bottleneck(shape: Shape, settings: Settings) -> int | None:
    """2·d·m + d + m for each adapter (Houlsby et al. 2019, arXiv:1902.00751, section 2.1); two a layer, or one."""
    if shape.experts is not None and settings.get("target_modules") is None:
        raise ValueError(f"{shape.architecture} has experts in its feed-forward; name target_modules")
    if settings.get("target_modules") is None:
        if not shape.known:
            return None
        both = BOTTLENECKS[FAMILIES[shape.model_type].builder]
        settings = {**settings, "target_modules": both[1:] if settings.get("placement") == "pfeiffer" else both}
    asked = settings.get("bottleneck_size")

    def adapter(module: Module) -> int:
        width = module.out_features
        inner = int(asked) if asked else max(1, int(width / float(settings.get("reduction_factor", 16))))
        return _linear(width, inner) + _linear(inner, width)

    return _sum(shape, settings, adapter)


def freeze(shape: Shape, settings: Settings) -> int | None:
    """All parameters of the top layers and of the modules that are named; weights that are shared count once."""
    if not shape.known:
        return None
    named = settings.get("modules") or ()
    first = shape.num_hidden_layers - int(settings.get("num_layers", 2))
    known = modules(shape)
    for entry in named:
        parents = {module.name.rpartition(".")[0] for module in known}
        if not any(ends_with(name, [entry]) for name in {*parents, *(module.name for module in known)}):
            raise ValueError(f"{entry!r} in modules names no module; " + listing(shape))
    chosen = [m for m in known if _layer_of(m) >= first or _within(m.name, named)]
    tied = any(module.tied for module in chosen) and not any(m.kind == "embedding" for m in chosen)
    shared = next((m.num_parameters for m in known if m.tied), 0) if tied else 0
    return sum(module.num_parameters for module in chosen if not module.tied) + shared


def _layer_of(module: Module) -> int:
    parts = module.name.split(".")
    return next((int(part) for part in parts if part.isdecimal()), -1)


def _within(name: str, entries: Sequence[str]) -> bool:
    parts = name.split(".")
    return any(ends_with(".".join(parts[:depth]), entries) for depth in range(1, len(parts) + 1))


def _unknown(shape: Shape, settings: Settings) -> bool:
    return not shape.known or any(settings.get(name) for name in UNCOUNTED)


def _sum(shape: Shape, settings: Settings, size: Callable[[Module], int]) -> int | None:
    """The sizes of all adapted modules, with whole modules that train beside them and biases that are set free."""
    wanted = settings.get("target_modules")
    if _unknown(shape, settings) or (shape.experts is not None and wanted is None):
        return None
    saved = saved_modules(shape, settings.get("modules_to_save") or ())
    names = {module.name for module in saved}
    adapted = [
        module
        for module in targeted(shape, wanted)
        if module.name not in names
        and not is_excluded(module.name, settings.get("exclude_modules"))
        and in_layers(module.name, wanted, settings.get("layers_to_transform"))
    ]
    if not adapted:
        raise ValueError("no module is left to adapt; " + listing(shape))
    if any(module.kind != "linear" for module in adapted):
        raise ValueError("only linear layers carry this adapter; " + listing(shape))
    total = sum(size(module) * module.num_stacked for module in adapted) + sum(m.num_parameters for m in saved)
    bias = str(settings.get("bias") or "none")
    return total + trained_biases(shape, "lora_only" if bias.endswith("_only") else bias, adapted)
