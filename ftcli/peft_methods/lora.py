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
from ftcli.peft_methods.lora_counts import lora_parameters
from ftcli.peft_methods.parameter_counts import Settings, is_unknown, whole_number
from ftcli.peft_methods.peft_declaration import FOUR_BITS, PeftMethod
from ftcli.settings.limits import BELOW_ONE, Limit

CONFIG = "peft.tuners.lora.config:LoraConfig"

_INITIALISATIONS = ("gaussian", "orthogonal", "olora", "pissa", "pissa_niter_[number of iters]")
# PEFT's others (eva, corda, loftq, lora_ga) need statistics of the data or the gradients before the run.


def moves_base(settings: Mapping[str, Any]) -> bool:
    """Whether the adapter is initialised with a part of the base weights, which is subtracted from them."""
    return str(settings.get("init_lora_weights")).startswith(("pissa", "olora"))


def check(settings: Mapping[str, Any]) -> list[Problem]:
    """The initialisation must be reversible, so that the adapter can be saved for the original base model."""
    if moves_base(settings) and (settings.get("use_dora") or settings.get("target_parameters")):
        name = "use_dora" if settings.get("use_dora") else "target_parameters"
        what = f"peft.init_lora_weights={settings['init_lora_weights']} cannot be combined with peft.{name}"
        return [Problem("peft.init_lora_weights", what, "remove one of them")]
    return []


def refuses(quantisation: str, settings: Mapping[str, Any]) -> str | None:
    """As PeftMethod.refuses."""
    if quantisation != "none" and moves_base(settings):
        start = settings["init_lora_weights"]
        return f"init_lora_weights={start} moves a part of the base weights into the adapter and needs them unquantised"
    return None


def count(shape: Shape, settings: Settings) -> int | None:
    """r × (in + out) per module (Hu et al. 2021, arXiv:2106.09685, section 4.1), with DoRA's magnitudes."""
    # EVA redistributes ranks between layers by statistics of the data.
    if is_unknown(shape, settings) or settings.get("init_lora_weights") == "eva":
        return None
    _refuse_initialisation(settings)
    fields = (
        "bias", "use_dora", "lora_bias", "exclude_modules", "layers_to_transform", "rank_pattern",
        "ensure_weight_tying", "lora_dropout", "init_lora_weights",
    )  # fmt: skip
    options = {name: settings[name] for name in fields if settings.get(name) is not None}
    saved = settings.get("modules_to_save") or ()
    return lora_parameters(
        shape, whole_number(settings, "r", CONFIG), settings.get("target_modules"), modules_to_save=saved, **options
    )


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


LORA = PeftMethod(
    name="lora",
    summary="Low-rank adapters on all linear layers: the usual choice on one GPU.",
    paper="Hu et al. 2021, arXiv:2106.09685",
    config=CONFIG,
    defaults={"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"},
    limits={
        "r": Limit(low=1),
        "lora_alpha": Limit(low=0, open_low=True),
        "lora_dropout": BELOW_ONE,
        "init_lora_weights": Limit(choices=_INITIALISATIONS),
    },
    count=count,
    check=check,
    refuses=refuses,
    support="ftcli.worker.tuners.residual:Residual",
)

DORA = replace(
    LORA,
    name="dora",
    summary="LoRA with separate direction and magnitude: better at low ranks, slower.",
    paper="Liu et al. 2024, arXiv:2402.09353",
    fixed={"use_dora": True},
)

RSLORA = replace(
    LORA,
    name="rslora",
    summary="LoRA scaled by the square root of its rank: for ranks of 64 and more.",
    paper="Kalajdzievski 2023, arXiv:2312.03732",
    fixed={"use_rslora": True},
    defaults={**LORA.defaults, "r": 64, "lora_alpha": 16},
)

PISSA = replace(
    LORA,
    name="pissa",
    summary="LoRA initialised with the principal singular vectors: learns faster, needs an unquantised base.",
    paper="Meng et al. 2024, arXiv:2404.02948",
    defaults={**LORA.defaults, "lora_alpha": 16, "init_lora_weights": "pissa"},
    limits={**LORA.limits, "init_lora_weights": Limit(choices=("pissa", "pissa_niter_[number of iters]"))},
)


@dataclass(frozen=True, kw_only=True)
class LoraPlusSettings:
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
    limits={**LORA.limits, "loraplus_lr_ratio": Limit(low=1), "loraplus_lr_embedding": Limit(low=0, open_low=True)},
    support="ftcli.worker.tuners.loraplus:LoraPlus",
)

QLORA = replace(
    LORA,
    name="qlora",
    summary="LoRA on a 4-bit base: the largest model that fits on a GPU.",
    paper="Dettmers et al. 2023, arXiv:2305.14314",
    implies="nf4_double",
    quantisations=FOUR_BITS,
)

METHODS = (LORA, QLORA, DORA, RSLORA, PISSA, LORAPLUS)
