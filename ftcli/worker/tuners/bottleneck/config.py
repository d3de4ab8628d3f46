"""The settings of bottleneck adapters, and their entry in PEFT's enumeration of types.

The front half reads the fields from this source without importing it, so they are written like PEFT's own. The defaults
are Houlsby's placement and AdapterHub's width, with one nonlinearity for both placements: relu, AdapterHub's default
for Pfeiffer's. Houlsby et al. do not name one; their code uses gelu (its tanh approximation, ours is exact), and
AdapterHub silu for their placement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peft.config import PeftConfig
from peft.utils import PeftType

_TYPE = "BOTTLENECK"
_NON_LINEARITIES = ("relu", "gelu", "silu", "tanh")
_PLACEMENTS = ("houlsby", "pfeiffer")


def add_type() -> PeftType:
    """Our member of PEFT's enumeration of types, added if missing."""
    if _TYPE not in PeftType.__members__:
        member = str.__new__(PeftType, _TYPE)
        member._name_, member._value_ = _TYPE, _TYPE
        setattr(PeftType, _TYPE, member)  # before it is a member: members cannot be assigned
        PeftType._member_map_[_TYPE] = member
        PeftType._member_names_.append(_TYPE)
        PeftType._value2member_map_[_TYPE] = member
    return PeftType(_TYPE)


@dataclass
class BottleneckConfig(PeftConfig):
    """Settings of [`BottleneckModel`].

    Raises:
        ValueError: values out of their range or choices, all of them at once.
    """

    reduction_factor: float = field(
        default=16.0, metadata={"help": "Hidden size over the width of the bottleneck, rounded down, at least 1."}
    )
    bottleneck_size: int | None = field(
        default=None, metadata={"help": "Width of the bottleneck itself, in place of reduction_factor."}
    )
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = field(
        default="relu", metadata={"help": "The function between the two projections."}
    )
    placement: Literal["houlsby", "pfeiffer"] = field(
        default="houlsby",
        metadata={
            "help": "houlsby: after attention and after feed-forward; pfeiffer: after feed-forward only. "
            "Without effect if target_modules is set."
        },
    )
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input."})
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={"help": "The layers whose output passes through an adapter; null follows the model's family."},
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Layers that are excluded, by name or regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Only the decoder layers of these numbers."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers, if the model's is unusual."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules that are fully trained and saved with the adapter."}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "Start as the identity; false starts at random, for tests."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_type()
        problems = [text for text, is_wrong in self._rules() if is_wrong]
        if problems:
            raise ValueError("; ".join(problems))

    def _rules(self) -> tuple[tuple[str, bool], ...]:
        """Every possible problem, each with whether it applies."""
        size, by_pattern = self.bottleneck_size, isinstance(self.target_modules, str)
        return (
            (f"bottleneck_size is {size}; it must be at least 1", size is not None and size < 1),
            (f"reduction_factor is {self.reduction_factor}; it must be above 0", not self.reduction_factor > 0),
            (f"dropout is {self.dropout}; it must be from 0 to 1", not 0 <= self.dropout <= 1),
            (
                _choice("non_linearity", self.non_linearity, _NON_LINEARITIES),
                self.non_linearity not in _NON_LINEARITIES,
            ),
            (_choice("placement", self.placement, _PLACEMENTS), self.placement not in _PLACEMENTS),
            (
                "layers_to_transform needs target_modules as a list: a regular expression can name layers itself",
                by_pattern and self.layers_to_transform is not None,
            ),
        )

    def width(self, hidden_size: int) -> int:
        """Width of the bottleneck for a layer of `hidden_size` outputs."""
        return self.bottleneck_size or max(1, int(hidden_size / self.reduction_factor))


def _choice(name: str, value: str, known: tuple[str, ...]) -> str:
    return f"{name} is {value!r}; it must be one of {', '.join(known)}"
