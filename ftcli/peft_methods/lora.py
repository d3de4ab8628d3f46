"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685) and those who changed one thing about it.

One thing departs from the paper: it adapts query and value only; all linear layers is what Dettmers et al. 2023
(arXiv:2305.14314, section 4) found to reach full fine-tuning.
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
from ftcli.settings.limits import Limit

_STARTS = ("gaussian", "orthogonal", "olora", "pissa", "pissa_niter_[number of iters]")
# The others (eva, corda, loftq, lora_ga) need statistics of the data or of the gradients before the run.


def moves_base(settings: Mapping[str, Any]) -> bool:
    """Whether the adapter starts from a part of the base weights, which is taken out of them."""
    return str(settings.get("init_lora_weights")).startswith(("pissa", "olora"))


def check(settings: Mapping[str, Any]) -> list[Problem]:
    """That the adapter's start can be undone, so that it is saved for the base that everyone has."""
    if moves_base(settings) and (settings.get("use_dora") or settings.get("target_parameters")):
        name = "use_dora" if settings.get("use_dora") else "target_parameters"
        what = f"peft.init_lora_weights={settings['init_lora_weights']} does not go with peft.{name}"
        return [Problem("peft.init_lora_weights", what, "remove one of them")]
    return []


def refuses(quantisation: str, settings: Mapping[str, Any]) -> str | None:
    """As PeftMethod.refuses."""
    if quantisation != "none" and moves_base(settings):
        start = settings["init_lora_weights"]
        return (
            f"init_lora_weights={start} takes a part of the weights out of them, and quantised ones cannot give it back"
        )
    return None


def count(shape: Shape, settings: Settings) -> int | None:
    """r × (in + out) a module (Hu et al. 2021, arXiv:2106.09685, section 4.1), with DoRA's magnitudes."""
    # EVA hands ranks from one layer to another by what it sees of the data.
    if is_unknown(shape, settings) or settings.get("init_lora_weights") == "eva":
        return None
    _refuse_start(settings)
    fields = (
        "bias", "use_dora", "lora_bias", "exclude_modules", "layers_to_transform", "rank_pattern",
        "ensure_weight_tying",
    )  # fmt: skip
    options = {name: settings[name] for name in fields if settings.get(name) is not None}
    saved = settings.get("modules_to_save") or ()
    return lora_parameters(
        shape, whole_number(settings, "r", 8), settings.get("target_modules"), modules_to_save=saved, **options
    )


def _refuse_start(settings: Settings) -> None:
    """Refuse what PEFT's LoRA cannot start from.

    Raises:
        ValueError: `init_lora_weights` does not go with lora_bias, or with a rank.
    """
    start = settings.get("init_lora_weights")
    if settings.get("lora_bias") and not isinstance(start, bool | None):
        raise ValueError(f"PEFT's LoRA takes lora_bias with no start but its own, not init_lora_weights={start}")
    ranks = [whole_number(settings, "r", 8), *(settings.get("rank_pattern") or {}).values()]
    if start == "orthogonal" and (odd := [rank for rank in ranks if rank % 2]):
        raise ValueError(f"init_lora_weights=orthogonal wants even ranks, not {odd[0]}")


LORA = PeftMethod(
    name="lora",
    summary="Low-rank adapters on all linear layers: the usual choice on one GPU.",
    paper="Hu et al. 2021, arXiv:2106.09685",
    config="peft.tuners.lora.config:LoraConfig",
    defaults={"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"},
    limits={
        "r": Limit(low=1),
        "lora_alpha": Limit(low=0, open_low=True),
        "lora_dropout": Limit(low=0.0, high=1.0),
        "init_lora_weights": Limit(choices=_STARTS),
    },
    count=count,
    check=check,
    refuses=refuses,
    support="ftcli.worker.tuners.residual:Residual",
)

DORA = replace(
    LORA,
    name="dora",
    summary="LoRA with direction and magnitude apart: better at low ranks, slower.",
    paper="Liu et al. 2024, arXiv:2402.09353",
    fixed={"use_dora": True},
)

RSLORA = replace(
    LORA,
    name="rslora",
    summary="LoRA scaled by the root of its rank: for ranks of 64 and more.",
    paper="Kalajdzievski 2023, arXiv:2312.03732",
    fixed={"use_rslora": True},
    defaults={**LORA.defaults, "r": 64, "lora_alpha": 16},
)

PISSA = replace(
    LORA,
    name="pissa",
    summary="LoRA that starts from the main singular vectors: learns faster, needs the unquantised base.",
    paper="Meng et al. 2024, arXiv:2404.02948",
    defaults={**LORA.defaults, "lora_alpha": 16, "init_lora_weights": "pissa"},
    limits={**LORA.limits, "init_lora_weights": Limit(choices=("pissa", "pissa_niter_[number of iters]"))},
)


@dataclass(frozen=True, kw_only=True)
class LoraPlusSettings:
    """What LoRA+ adds to LoRA."""

    loraplus_lr_ratio: float = 16.0
    """Learning rate of the B matrices over that of A; the paper finds 2^4 for language models (section 5)."""
    loraplus_lr_embedding: float = 1e-6
    """Learning rate of adapters on the embedding."""


LORAPLUS = replace(
    LORA,
    name="loraplus",
    summary="LoRA whose B matrices learn faster than A: the same quality in fewer steps.",
    paper="Hayou et al. 2024, arXiv:2402.12354",
    own="ftcli.peft_methods.lora:LoraPlusSettings",
    limits={**LORA.limits, "loraplus_lr_ratio": Limit(low=1), "loraplus_lr_embedding": Limit(low=0, open_low=True)},
    support="ftcli.worker.tuners.loraplus:LoraPlus",
)

QLORA = replace(
    LORA,
    name="qlora",
    summary="LoRA on a base in 4 bits: the largest model that a card can train.",
    paper="Dettmers et al. 2023, arXiv:2305.14314",
    implies="nf4_double",
    quantisations=FOUR_BITS,
)

METHODS = (LORA, QLORA, DORA, RSLORA, PISSA, LORAPLUS)
