"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685) and variants that change one thing about it.

Departs from the paper, which adapts query and value only: by default all linear layers are adapted, which Dettmers et
al. 2023 (arXiv:2305.14314, section 4) found necessary to match full fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftcli.core.errors import Problem
from ftcli.models.shape import Shape
from ftcli.peft_methods import initialisations
from ftcli.peft_methods.initialisations import InitialisationSettings, initialisation
from ftcli.peft_methods.lora_counts import adapted_modules, lora_parameters
from ftcli.peft_methods.parameter_counts import Settings, is_unknown, whole_number
from ftcli.peft_methods.peft_declaration import FOUR_BITS, PeftMethod
from ftcli.settings.limits import BELOW_ONE, Limit
from ftcli.settings.sharding import FSDP, ZERO
from ftcli.settings.sourced_defaults import Default

CONFIG = "peft.tuners.lora.config:LoraConfig"


def check(settings: Mapping[str, Any]) -> list[Problem]:
    """What its initialisation excludes."""
    return list(initialisations.problems(settings))


def count(shape: Shape, settings: Settings) -> int | None:
    """r × (in + out) per module (Hu et al. 2021, arXiv:2106.09685, section 4.1), with DoRA's magnitudes."""
    if is_unknown(shape, settings):
        return None
    _refuse_initialisation(settings)
    r, targets = whole_number(settings, "r", CONFIG), settings.get("target_modules")
    adapted = adapted_modules(shape, r, targets, settings)
    initialisations.refuse_ranks(settings, adapted or ())
    if initialisations.is_spread(settings):
        return None
    fields = (
        "bias", "use_dora", "lora_bias", "exclude_modules", "layers_to_transform", "rank_pattern",
        "ensure_weight_tying", "lora_dropout", "init_lora_weights",
    )  # fmt: skip
    options = {name: settings[name] for name in fields if settings.get(name) is not None}
    total = lora_parameters(shape, r, targets, modules_to_save=settings.get("modules_to_save") or (), **options)
    if total is not None and initialisation(settings) is initialisations.INITIALISATIONS["mica"]:
        if adapted is None:
            return None
        # B is frozen, which is as long as the layer's output; an embedding's output is its in_features here.
        total -= sum(rank * (m.in_features if m.kind == "embedding" else m.out_features) for m, rank in adapted)
    return total


def at_most(shape: Shape, settings: Settings) -> int | None:
    """As PeftMethod.at_most: EVA gives no layer more than rho times the rank."""
    if not initialisations.is_spread(settings):
        return None
    found = count(shape, {**settings, "init_lora_weights": True})
    return None if found is None else round(found * initialisations.rank_spread(settings))


def start_bytes(shape: Shape, settings: Settings, weight_bytes: float) -> tuple[float, bool]:
    """As PeftMethod.start_bytes."""
    if not initialisation(settings).looks_at or not shape.known:
        return 0.0, False
    adapted = adapted_modules(shape, whole_number(settings, "r", CONFIG), settings.get("target_modules"), settings)
    return initialisations.extra_bytes(settings, adapted or (), weight_bytes)


def plain_start(settings: Settings) -> bool:
    """As PeftMethod.plain_start: DoRA's magnitudes are norms of the weights, and rows or modules that are trained whole
    are copies of them; a copy of a tied head cannot be tied again, which accelerate does."""
    copies = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication")
    return initialisation(settings).plain and not any(settings.get(name) for name in copies)


def _refuse_initialisation(settings: Settings) -> None:
    """Refuse an initialisation that PEFT's LoRA does not support.

    Raises:
        ValueError: `init_lora_weights` cannot be combined with lora_bias, or with a rank.
    """
    start = settings.get("init_lora_weights")
    if settings.get("lora_bias") and not isinstance(start, bool | None):
        raise ValueError(
            f"PEFT's LoRA supports lora_bias with its default initialisation only, not init_lora_weights={start}"
        )
    ranks = [whole_number(settings, "r", CONFIG), *(settings.get("rank_pattern") or {}).values()]
    if start == "orthogonal" and (odd := [rank for rank in ranks if rank % 2]):
        raise ValueError(f"init_lora_weights=orthogonal needs even ranks, not {odd[0]}")


_R = Default(value=16, source="Unsloth: 16 to 32; QLoRA (section 4): r hardly matters once all layers are adapted")
_ALPHA = Default(value=32, source="LoRA Without Regret, Unsloth: 32, or twice r")
_DROPOUT = Default(value=0.0, source="Unsloth, tinker-cookbook: 0; QLoRA: 0.1 up to 13B, 0.05 above, on small sets")
_TARGETS = Default(
    value="all-linear", source="QLoRA (figure 2) and LoRA Without Regret: all linear layers; Hu et al.: query and value"
)
SOURCES: Mapping[str, Default] = {"r": _R, "lora_alpha": _ALPHA, "lora_dropout": _DROPOUT, "target_modules": _TARGETS}

LORA = PeftMethod(
    name="lora",
    summary="Low-rank adapters on all linear layers: the usual choice on one GPU.",
    paper="Hu et al. 2021, arXiv:2106.09685",
    config=CONFIG,
    defaults={name: default.value for name, default in SOURCES.items()},
    sources=SOURCES,
    rate_factor=Default(
        value=1,
        source="the method's own rate with an adapter",
        measured="benchmarks/adapters.py: 0.003 for the built-in model",
    ),
    limits={
        "r": Limit(low=1),
        "lora_alpha": Limit(low=0, open_low=True),
        "lora_dropout": BELOW_ONE,
        "init_lora_weights": Limit(choices=initialisations.WORDS),
        "init_rows": Limit(low=1),
        **{each.config: Limit(mapping=True) for each in initialisations.INITIALISATIONS.values() if each.config},
    },
    own="ftcli.peft_methods.initialisations:InitialisationSettings",
    count=count,
    at_most=at_most,
    check=check,
    refuses=initialisations.refuses,
    looks_at=lambda settings: initialisation(settings).looks_at,
    start_bytes=start_bytes,
    plain_start=plain_start,
    never_shards=lambda layout, settings: (
        "what it took out of the base is put back at the end, and each process then has a part of the base only"
        if layout in (FSDP, f"{ZERO}3") and initialisation(settings).moves_base
        else ""
    ),
    support="ftcli.worker.tuners.initialised:Initialised",
)

DORA = replace(
    LORA,
    name="dora",
    summary="LoRA with separate direction and magnitude: better at low ranks, slower.",
    paper="Liu et al. 2024, arXiv:2402.09353",
    fixed={"use_dora": True},
    rate_factor=Default(
        value=1,
        source="the authors' scripts for LLaMA 7B and Llama 2 7B: 2e-4, for Llama 3 8B 1e-4; they advise slightly less "
        "than LoRA's",
        measured="benchmarks/adapters.py: LoRA's 0.003",
    ),
)

RSLORA = replace(
    LORA,
    name="rslora",
    summary="LoRA scaled by the square root of its rank: for ranks of 64 and more.",
    paper="Kalajdzievski 2023, arXiv:2312.03732",
    fixed={"use_rslora": True},
    defaults={**LORA.defaults, "r": 64, "lora_alpha": 16},
    sources={
        **SOURCES,
        "r": Default(value=64, source="Kalajdzievski 2023: where plain LoRA's update becomes too small"),
        "lora_alpha": Default(value=16, source="16 / sqrt(64) scales the update by 2, as LoRA's 32 / 16"),
    },
    rate_factor=Default(
        value=1,
        source="Kalajdzievski 2023: the scaling makes LoRA's rate hold at every rank",
        measured="benchmarks/adapters.py: 0.001, a third of LoRA's, is better for the built-in model",
    ),
)

PISSA = replace(
    LORA,
    name="pissa",
    summary="LoRA initialised with the principal singular vectors: learns faster, needs an unquantised base.",
    paper="Meng et al. 2024, arXiv:2404.02948",
    defaults={**LORA.defaults, "lora_alpha": 16, "init_lora_weights": "pissa"},
    sources={
        **SOURCES,
        "lora_alpha": Default(value=16, source="the authors' scripts: alpha = r, the weights' own principal part"),
        "init_lora_weights": Default(value="pissa", source="Meng et al. 2024, section 3"),
    },
    rate_factor=Default(
        value=0.1,
        source="the authors' scripts for Llama 2 7B: 2e-5, a tenth of LoRA's usual 2e-4",
        measured="benchmarks/adapters.py: 0.001, a third of LoRA's",
    ),
    limits={name: limit for name, limit in LORA.limits.items() if name != "init_rows"}  # it looks at no rows
    | {"init_lora_weights": Limit(choices=("pissa", "pissa_niter_[number of iters]"))},
    own=None,
)


@dataclass(frozen=True, kw_only=True)
class LoraPlusSettings(InitialisationSettings):
    """What LoRA+ adds to LoRA."""

    loraplus_lr_ratio: float = 16.0
    """Ratio of the learning rate of B to that of A; the paper finds 2^4 for language models (section 5)."""
    loraplus_lr_embedding: float = 1e-6
    """Learning rate of adapters on the embedding."""


LORAPLUS = replace(
    LORA,
    name="loraplus",
    summary="LoRA with a higher learning rate for B than for A: the same quality in fewer steps.",
    paper="Hayou et al. 2024, arXiv:2402.12354",
    own="ftcli.peft_methods.lora:LoraPlusSettings",
    sources={
        **SOURCES,
        "loraplus_lr_ratio": Default(value=16.0, source="Hayou et al. 2024, section 5: 2^4 for language models"),
    },
    rate_factor=Default(
        value=0.25,
        source="A learns at a quarter of LoRA's rate and B, 16 times faster, at four times: LoRA's is their geometric "
        "mean; the authors: A at half or less",
        measured="benchmarks/adapters.py: 0.0005, a sixth of LoRA's",
    ),
    limits={
        **LORA.limits,
        "loraplus_lr_ratio": Limit(low=1),
        "loraplus_lr_embedding": Limit(low=0, open_low=True),
        # MiCA freezes B, whose learning rate this method is about.
        "init_lora_weights": Limit(choices=tuple(word for word in initialisations.WORDS if word != "mica")),
    },
    support="ftcli.worker.tuners.loraplus:LoraPlus",
)

QLORA = replace(
    LORA,
    name="qlora",
    summary="LoRA on a 4-bit base: the largest model that fits on a GPU.",
    paper="Dettmers et al. 2023, arXiv:2305.14314",
    implies="nf4_double",
    rate_factor=Default(
        value=1,
        source="QLoRA (table 9): 2e-4 up to 13B, 1e-4 above, which LoRA's rates by size follow",
        measured="benchmarks/adapters.py: LoRA's 0.003",
    ),
    quantisations=FOUR_BITS,
)

METHODS = (LORA, QLORA, DORA, RSLORA, PISSA, LORAPLUS)
