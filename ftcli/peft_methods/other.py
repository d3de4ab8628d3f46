"""Any further tuner of the installed PEFT: `peft=other peft.type=LOHA`, its own fields validated.

The tuners are found in PEFT's source: each config class sets its type, and each type has one class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

from ftcli.core.declarations import declarations
from ftcli.core.errors import Problem
from ftcli.core.module_source import package_folder
from ftcli.core.suggest import suggest
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.peft_methods.prompts import PREFIX, PROMPT
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import Default

_PROMPTS = ("MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE")
# Types that ftcli cannot train, and why.
IMPOSSIBLE = {
    "XLORA": "it mixes already trained adapters, each given by its path",
    "POLY": "every row needs a task_ids column, which no format has",
    "MULTITASK_PROMPT_TUNING": "every row needs a task_ids column, which no format has",
    "ADAPTION_PROMPT": "it replaces the attention that TRL's fused loss calls, which then misses its log-probabilities",
    "CPT": "it computes its own loss from logits, which TRL's fused loss does not produce",
}
# Types that need a package beyond PEFT's own: the module, and the name to install.
_PACKAGES = {"ADAMSS": ("sklearn", "scikit-learn")}
# Types whose tuner does not implement merging.
_UNMERGED = ("BEFT", "LILY", "SHADOW")

TOKENS_IN_VLLM = "TRL would hand over the embedding with its trained rows under a name that no model has"
"""Why vLLM cannot sample from an adapter that trains rows of the embedding."""


@dataclass(frozen=True, kw_only=True)
class OtherSettings:
    """The setting that chooses the tuner."""

    type: str
    """PEFT's name of the tuner, such as LOHA, LOKR, BOFT, HRA, MISS or TRAINABLE_TOKENS."""


@cache
def tuner_configs() -> Mapping[str, str]:
    """The config class of each type that the installed PEFT has, as {"LOHA": "peft.tuners.loha.config:LoHaConfig"}."""
    package = package_folder("peft")
    if package is None:
        return {}
    found = {}
    for file in sorted(package.glob("tuners/*/config.py")):
        text = file.read_text(encoding="utf-8")
        classes = list(re.finditer(r"^class (\w+)\(", text, re.MULTILINE))
        for kind in re.finditer(r"self\.peft_type = PeftType\.(\w+)", text):
            (*_, owner) = [match for match in classes if match.start() < kind.start()]
            found[kind[1]] = f"peft.tuners.{file.parent.name}.config:{owner[1]}"
    return found


@cache
def own_choices() -> Mapping[str, str]:
    """The types with their own peft= choice, as {"LORA": "lora"}; of several choices, the one declared first."""
    families = declarations("ftcli.peft_methods", "METHODS").values()
    declared = [method for family in families for method in family if method.kind and method.config.startswith("peft.")]
    return {method.kind: method.name for method in reversed(declared)}


def why_other_unmerged(kind: str) -> str:
    """Why a tuner of that type cannot be merged into its base; empty where it can."""
    if kind in _PROMPTS:
        return PROMPT.never_merges
    return "its tuner does not implement merging" if kind in _UNMERGED else ""


def why_impossible(kind: str) -> str:
    """The reason for which a type of IMPOSSIBLE is refused."""
    return f"peft.type={kind} cannot be trained here: {IMPOSSIBLE[kind]}"


def _typed(method: PeftMethod, settings: Mapping[str, Any]) -> PeftMethod:
    kind = settings.get("type")
    config = tuner_configs().get(str(kind))
    if config is None:
        return method
    learns_prompts = kind in _PROMPTS
    return replace(
        method,
        kind=str(kind),
        config=config,
        never_merges=why_other_unmerged(str(kind)),
        never_in_vllm=TOKENS_IN_VLLM if kind == "TRAINABLE_TOKENS" else "",
        never_packs=PROMPT.never_packs if learns_prompts else "",
        never_shards=PROMPT.never_shards if learns_prompts else method.never_shards,
        never_checkpoints=PREFIX.never_checkpoints if kind == "CARTRIDGE" else "",
        variant=None,
    )


def check(settings: Mapping[str, Any]) -> list[Problem]:
    """The type must exist in PEFT, have no peft= choice of its own, and be trainable here."""
    kind = str(settings.get("type"))
    usable = [name for name in tuner_configs() if name not in {**own_choices(), **IMPOSSIBLE}]
    if kind in own_choices():
        return [Problem("peft.type", f"peft.type={kind} has its own choice", f"peft={own_choices()[kind]}")]
    if kind in IMPOSSIBLE:
        return [Problem("peft.type", why_impossible(kind), suggest("", usable, ""))]
    if kind not in usable:
        what = "peft=other needs peft.type" if settings.get("type") is None else f"{kind} is not a tuner of PEFT"
        return [Problem("peft.type", what, suggest(kind.upper(), usable, "peft.type="))]
    module, package = _PACKAGES.get(kind, ("", ""))
    if module and find_spec(module) is None:
        return [Problem("peft.type", f"peft.type={kind} needs the package {package}", f"pip install {package}")]
    return []


METHODS = (
    PeftMethod(
        name="other",
        kind="",
        summary="Any other tuner of the installed PEFT, by peft.type, with its own fields.",
        paper="of the tuner",
        config="peft.config:PeftConfig",
        own="ftcli.peft_methods.other:OtherSettings",
        limits={"type": Limit()},
        variant=_typed,
        check=check,
        rate_factor=Default(value=1, source="not looked up for each tuner: see its paper"),
    ),
)
