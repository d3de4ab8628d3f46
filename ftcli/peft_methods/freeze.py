"""Partial fine-tuning: the top layers or named modules train, everything below is frozen.

No adapter: the result is a whole model. Which layers to thaw is a question as old as transfer learning
(Yosinski et al. 2014, arXiv:1411.1792); Lee et al. 2019 (arXiv:1911.03090) found a quarter of them enough for BERT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.core.errors import Problem
from ftcli.peft_methods.parameter_counts import freeze
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.limits import Limit


@dataclass(frozen=True, kw_only=True)
class FreezeSettings:
    """Which parameters of the model itself train."""

    num_layers: int = 2
    """So many of the top decoder layers train; 0 leaves it to `modules`."""
    modules: list[str] | None = None
    """Modules that train as well, by full name or its end: [embed_tokens, lm_head]."""


def check(settings: Mapping[str, Any]) -> list[Problem]:
    """That something trains."""
    if settings.get("num_layers", 2) or settings.get("modules"):
        return []
    return [Problem("peft.num_layers", "peft.num_layers=0 without peft.modules trains nothing", "name peft.modules")]


METHODS = (
    PeftMethod(
        name="freeze",
        kind="",
        summary="Trains the top layers or named modules of the model itself; the rest stays frozen.",
        paper="Lee et al. 2019, arXiv:1911.03090",
        config="ftcli.peft_methods.freeze:FreezeSettings",
        adapter=False,
        defaults={"num_layers": 2},
        limits={"num_layers": Limit(low=0)},
        count=freeze,
        check=check,
        quantisations=("none",),
        never_merges="it trained the model itself, which is whole already",
        support="ftcli.worker.tuners.freeze:Freeze",
    ),
)
