"""What a parameter-efficient method declares about itself, and what it refuses with the reason.

Everything that a check, a plan or a table says of an adapter stands in its declaration; nothing looks at its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.core.errors import Problem
from ftcli.models.shape import Shape
from ftcli.settings.library_fields import Field, fields_of
from ftcli.settings.limits import Limit

Settings = Mapping[str, Any]
FOUR_BITS = ("nf4_double", "nf4", "fp4")


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A value that follows the model: what it is and why."""

    value: Any
    why: str


@dataclass(frozen=True, kw_only=True)
class PeftMethod:
    """One way to train few parameters. Classes are strings `module:Class`, so that a declaration costs no import."""

    name: str
    summary: str
    """One line that says when to choose it."""
    paper: str
    kind: str = "LORA"
    """PEFT's name of the type that its saved adapters have."""
    config: str
    """The PEFT config class; of a method that needs none, the class of its own settings."""
    own: str | None = None
    """Class of settings that ftcli adds to those of the config."""
    adapter: bool = True
    """Whether the base stays as it is and a PEFT adapter beside it trains."""
    defaults: Settings = field(default_factory=dict)
    """Fields set unless the user says otherwise."""
    fixed: Settings = field(default_factory=dict)
    """Fields that make it this method, which no one else may set."""
    owned: Mapping[str, str] = field(default_factory=dict)
    """Further fields that may not be set, and who sets them."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    follows: Callable[[Shape, Settings], Mapping[str, Derived]] = lambda shape, settings: {}
    """Values that follow the model's family where the user names none."""
    count: Callable[[Shape, Settings], int | None] = lambda shape, settings: None
    """Parameters that train; None where it is not known. Raises ValueError for what the model has not."""
    check: Callable[[Settings], list[Problem]] | None = None
    """Rules among its own fields."""
    variant: Callable[[PeftMethod, Settings], PeftMethod] | None = None
    """What it becomes under settings that choose another config class."""
    rate_factor: float = 1.0
    """Its usual learning rate over that of LoRA."""
    implies: str | None = None
    """The quantisation that it brings along."""
    quantisations: tuple[str, ...] | None = None
    """The only quantisations that it is defined for; None: any that it does not refuse."""
    refuses: Callable[[str, Settings], str | None] = lambda quantisation, settings: None
    """Why it does not go with a quantisation of the base, or None."""
    never_merges: str = ""
    """Why it cannot be folded into the base weights; empty where it can."""
    never_packs: str = ""
    """Why it cannot be trained on packed rows; empty where it can."""
    never_checkpoints: str = ""
    """Why gradient checkpointing breaks it; empty where it does not."""
    support: str | None = None
    """The class in ftcli/worker/tuners that does for it in a run what PEFT leaves to the caller."""

    def resolved(self, settings: Settings) -> PeftMethod:
        """The method under its settings; most are the same under all."""
        return self.variant(self, settings) if self.variant else self

    def fields(self) -> Mapping[str, Field]:
        """The fields of its config class and of ftcli's own settings for it, by name."""
        return {**fields_of(self.config), **(fields_of(self.own) if self.own else {})}

    def config_values(self, settings: Settings) -> dict[str, Any]:
        """What its config class is made of: defaults under the settings under what is fixed, without our own fields."""
        ours = set(fields_of(self.own)) if self.own else set()
        values = {**self.defaults, **settings, **self.fixed}
        # A null gives the field back to PEFT's own default.
        return {key: value for key, value in values.items() if key not in {"name", *ours} and value is not None}
