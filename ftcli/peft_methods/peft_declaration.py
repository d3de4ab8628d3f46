"""What a parameter-efficient method declares about itself, including what it does not support and why.

Checks, plans and tables read everything about an adapter from its declaration; no code branches on its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.core.errors import Problem
from ftcli.models.shape import Shape
from ftcli.settings.library_fields import Field, fields_of
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import Default

Settings = Mapping[str, Any]
FOUR_BITS = ("nf4_double", "nf4", "fp4")


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A value that depends on the model, with the reason."""

    value: Any
    why: str


@dataclass(frozen=True, kw_only=True)
class PeftMethod:
    """One parameter-efficient method. Classes are strings `module:Class`, so a declaration imports nothing."""

    name: str
    summary: str
    """One line that says when to choose it."""
    paper: str
    kind: str = "LORA"
    """PEFT's type name, as in its saved adapters."""
    config: str
    """The PEFT config class, or the class of its own settings where it does not use PEFT."""
    own: str | None = None
    """Class of settings that ftcli adds to those of the config."""
    adapter: bool = True
    """Whether an adapter trains and the base is frozen."""
    defaults: Settings = field(default_factory=dict)
    """Fields set unless the user says otherwise."""
    fixed: Settings = field(default_factory=dict)
    """Fields that define the method; the user may not set them."""
    owned: Mapping[str, str] = field(default_factory=dict)
    """Further fields that the user may not set → what sets them."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    follows: Callable[[Shape, Settings], Mapping[str, Derived]] = lambda shape, settings: {}
    """Values that depend on the model's family, for fields that the user did not set."""
    count: Callable[[Shape, Settings], int | None] = lambda shape, settings: None
    """Number of trainable parameters; None where unknown. Raises ValueError for modules that the model lacks."""
    at_most: Callable[[Shape, Settings], int | None] = lambda shape, settings: None
    """An upper bound of that number where it is known only once the run has looked at its rows; else None."""
    check: Callable[[Settings], list[Problem]] | None = None
    """Rules among its own fields."""
    variant: Callable[[PeftMethod, Settings], PeftMethod] | None = None
    """The method under settings that choose another config class."""
    rate_factor: Default
    """Ratio of its usual learning rate to LoRA's; to full fine-tuning's where no adapter trains."""
    sources: Mapping[str, Default] = field(default_factory=dict)
    """Where the defaults of its own fields come from; the values are those of its group file and its config class."""
    implies: str | None = None
    """The quantisation that it implies."""
    quantisations: tuple[str, ...] | None = None
    """The only quantisations that it supports; None: all that it does not refuse."""
    refuses: Callable[[str, Settings], str | None] = lambda quantisation, settings: None
    """Why it cannot be combined with a quantisation of the base, or None."""
    looks_at: Callable[[Settings], str] = lambda settings: ""
    """What of the training rows it looks at before the run: "inputs" of the layers, "gradients", or nothing."""
    start_bytes: Callable[[Shape, Settings, float], tuple[float, bool]] = lambda shape, settings, weight_bytes: (
        0.0,
        False,
    )
    """Bytes held while it looks at them, given those of one weight, and whether a backward pass runs meanwhile."""
    plain_start: Callable[[Settings], bool] = lambda settings: False
    """Whether what trains starts without the values of the base's weights, given the values of its config; False where
    nobody has looked."""
    never_merges: str = ""
    """Why it cannot be merged into the base weights; empty where it can."""
    never_shards: Callable[[str, Settings], str] = lambda layout, settings: ""
    """Why it cannot train on a model that is sharded as "fsdp", "zero1", "zero2" or "zero3"; empty where it can."""
    never_in_vllm: str = ""
    """Why vLLM cannot sample from it, though it can be merged; empty where it can."""
    never_packs: str = ""
    """Why it cannot be trained on packed rows; empty where it can."""
    never_checkpoints: str = ""
    """Why gradient checkpointing breaks it; empty where it does not."""
    support: str | None = None
    """The class in ftcli/worker/tuners that does in a run what PEFT leaves to the training loop."""

    def resolved(self, settings: Settings) -> PeftMethod:
        """The method under these settings; most methods are the same under all settings."""
        return self.variant(self, settings) if self.variant else self

    def fields(self) -> Mapping[str, Field]:
        """The fields of its config class and of ftcli's own settings for it, by name."""
        return {**fields_of(self.config), **(fields_of(self.own) if self.own else {})}

    def config_values(self, settings: Settings) -> dict[str, Any]:
        """Arguments of its config class: defaults, then the settings, then fixed fields, without ftcli's own."""
        ours = set(fields_of(self.own)) if self.own else set()
        values = {**self.defaults, **settings, **self.fixed}
        # null means PEFT's own default.
        return {key: value for key, value in values.items() if key not in {"name", *ours} and value is not None}
