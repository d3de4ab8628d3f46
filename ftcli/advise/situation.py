"""A situation: the rows, the goal, the hardware, and the model where one is named; and the conditions of the rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ftcli.advise.data_look import SHORT_ANSWER, DataLook
from ftcli.data.formats.registry import DATASET_TYPES

REPEATED = 0.2
"""Share of repeated prompts from which a set is said to repeat its prompts."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that the rules look at."""

    look: DataLook
    goal: str
    device: str
    """cuda or cpu."""
    room_gib: float
    """Memory that one process may take."""
    base_model: bool = False
    """Whether the named model continues text and was not trained to answer."""
    named_model: bool = False
    """Whether the user named the model."""


TRAITS: Mapping[str, tuple[str, Callable[[Situation], bool]]] = MappingProxyType(
    {
        "gpu": ("there is a GPU", lambda s: s.device == "cuda"),
        "cpu": ("there is no GPU", lambda s: s.device == "cpu"),
        "base": ("the named model is a base model", lambda s: s.base_model),
        "checkable": ("a rule can check the answers", lambda s: s.look.checkable is not None),
        "prompts": ("the prompts can be read apart from the answers", lambda s: s.look.as_prompts is not None),
        "short": (f"half of the answers have {SHORT_ANSWER} tokens or fewer", lambda s: s.look.short),
        "repeated": (f"{REPEATED:.0%} of the rows repeat a prompt", lambda s: s.look.repeated_prompts >= REPEATED),
        "ladder": ("no model is named, so a larger one of its family can teach", lambda s: not s.named_model),
        "one turn": ("no row has more than one answer", lambda s: s.look.turns <= 1),
    }
)  # fmt: skip
"""What a rule may ask of a situation: in words, and as a test."""


@dataclass(frozen=True, kw_only=True)
class When:
    """The condition of a rule; what is left empty holds always."""

    kinds: tuple[str, ...] = ()
    rows: tuple[int, int | None] = (0, None)
    """At least so many rows, and fewer than so many."""
    traits: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def holds(self, situation: Situation) -> bool:
        """Whether the condition holds in a situation."""
        look, (least, most) = situation.look, self.rows
        return (
            (not self.kinds or look.kind in self.kinds)
            and look.rows >= least
            and (most is None or (look.whole and look.rows < most))
            and all(TRAITS[name][1](situation) for name in self.traits)
            and not any(TRAITS[name][1](situation) for name in self.without)
        )

    @property
    def words(self) -> str:
        """The condition in words."""
        least, most = self.rows
        parts = [" or ".join(DATASET_TYPES[kind] for kind in self.kinds)] if self.kinds else []
        if most is not None:
            parts.append(f"{least} to {most} rows" if least else f"fewer than {most} rows")
        elif least:
            parts.append(f"{least} rows or more")
        parts += [TRAITS[name][0] for name in self.traits]
        parts += [f"not: {TRAITS[name][0]}" for name in self.without]
        return "; ".join(parts) or "always"
