"""The modules of one model, and what a worker measured of an architecture that is in no table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Module:
    """One parameter-bearing module under its full name, as `named_modules()` gives it."""

    name: str
    in_features: int
    out_features: int
    kind: str = "linear"
    """linear, embedding, norm, router, experts (stacked, not nn.Linear), parameter (held by its parent), or other: a
    module that no adapter is put on."""
    bias: bool = False
    num_stacked: int = 1
    tied: bool = False
    head: bool = False
    """Whether it is the output head, which no adapter reaches because the loss is fused with it."""

    @property
    def leaf(self) -> str:
        """Last part of the name: q_proj of model.layers.0.self_attn.q_proj."""
        return self.name.rpartition(".")[2]

    @property
    def num_parameters(self) -> int:
        """Elements of its weight and bias, whether or not another module shares them."""
        return self.num_stacked * (self.in_features * self.out_features + self.out_features * self.bias)

    @property
    def num_own_parameters(self) -> int:
        """Elements not shared with another module: of a tied head only the bias, if it has one."""
        return self.out_features * self.bias if self.tied else self.num_parameters

    @property
    def is_module(self) -> bool:
        """False for stacked experts and attention sinks, which are parameters of the module above them."""
        return self.kind not in ("experts", "parameter")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a worker measured of a model class that has no table: on the meta device, and on a small random copy."""

    modules: tuple[Module, ...]
    """Every parameter-bearing module, in the model's order."""
    sizes: Mapping[str, Any]
    """Fields of a Shape as the configuration class gives them: hidden_size, num_hidden_layers, …"""
    sdpa: bool
    """Whether scaled-dot-product attention computes this model's attention."""
    packs: bool
    """Whether packed rows gave the loss and gradients of separate rows, on a small random copy."""
    packing: str
    """What the trial of packing showed, for people."""
    passes_positions: bool
    """Whether positions reach the attention kernel, without which flash attention mixes packed documents."""
    router_loss: bool
    """Whether training adds a loss for its router, which is a mean over the batch."""
    renamed_by_peft: str
    """The names of transformers 4, where each expert was three linear layers, by which PEFT reads targets: "mixtral",
    "qwen2_moe", or "" for an architecture that it takes as it is."""

    def to_data(self) -> dict[str, Any]:
        """As JSON data."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**own, "modules": [list(astuple(module)) for module in self.modules]}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Layout:
        """Read what `to_data` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(**{**data, "modules": tuple(Module(*each) for each in data["modules"])})
