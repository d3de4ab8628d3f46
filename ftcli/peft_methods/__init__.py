"""The parameter-efficient methods, declared like the training methods; a family shares one file.

A module in this folder that defines `METHODS` declares them; they are registered nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.core.declarations import declarations
from ftcli.peft_methods.other import why_other_unmerged
from ftcli.peft_methods.peft_declaration import PeftMethod

__all__ = ["PEFT_METHODS", "PeftMethod", "peft_method", "starts_plain", "why_unmerged"]


def _declared() -> dict[str, PeftMethod]:
    found = {method.name: method for family in declarations(__name__, "METHODS").values() for method in family}
    first = ("lora", "qlora", "dora", "rslora", "pissa", "loraplus")  # the family that most users look for
    return {name: found[name] for name in (*first, *sorted(found.keys() - set(first)))}


PEFT_METHODS: dict[str, PeftMethod] = _declared()


def why_unmerged(kind: str) -> str:
    """Why an adapter of PEFT's type `kind` cannot be merged into its base; empty where it can."""
    declared = (method.never_merges for method in PEFT_METHODS.values() if method.kind == kind)
    return next(declared, "") or why_other_unmerged(kind)


def peft_method(settings: Mapping[str, Any]) -> PeftMethod | None:
    """The method that the `peft` settings choose, as it is under these settings; None for full fine-tuning."""
    declared = PEFT_METHODS.get(str(settings.get("name", "none")))
    return declared.resolved(settings) if declared else None


def starts_plain(declared: PeftMethod | None, settings: Mapping[str, Any]) -> bool:
    """Whether what trains under the `peft` settings starts without the values of the base's weights; None trains the
    weights themselves."""
    return declared is None or declared.plain_start(declared.config_values(settings))
