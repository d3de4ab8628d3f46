"""One bottleneck adapter after one layer: h + up(f(down(h))), section 2.1 of Houlsby et al. 2019.

Differs from it in initialisation and dropout. The authors draw both projections from a narrow normal (their code: 1e-3,
biases zero), which is nearly the identity. Here the up-projection is zero, which is exactly the identity, and the
down-projection has `nn.Linear`'s initialisation; so the first step only moves the up-projection. Dropout, which their
adapter lacks and AdapterHub's applies after the up-projection, is applied to the adapter's input, as in PEFT's LoRA.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn

from ftcli.worker.tuners.bottleneck.config import BottleneckConfig

NEVER_MERGES = "bottleneck adapters cannot be merged: a nonlinearity stands between their projections"

_FUNCTIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
# PEFT knows their sizes too, but their last output dimension is not their number of outputs, or they return no tensor.
_REFUSED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear layer followed, per adapter, by 2·d·m + m + d parameters: d its outputs, m the bottleneck.

    Raises:
        ValueError: the layer does not return a tensor of shape (…, d) with a d that is known from the layer itself.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_function", "bottleneck_dropout")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = _sizes(self.get_base_layer())
        self.bottleneck_down = nn.ModuleDict({})
        self.bottleneck_up = nn.ModuleDict({})
        self.bottleneck_function = nn.ModuleDict({})
        self.bottleneck_dropout = nn.ModuleDict({})
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter of that name."""
        width = config.width(self.out_features)
        self.bottleneck_down[adapter_name] = nn.Linear(self.out_features, width)
        self.bottleneck_up[adapter_name] = nn.Linear(width, self.out_features)
        self.bottleneck_function[adapter_name] = _FUNCTIONS[config.non_linearity]()
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        if config.init_weights:
            nn.init.zeros_(self.bottleneck_up[adapter_name].weight)
            nn.init.zeros_(self.bottleneck_up[adapter_name].bias)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output, (…, d), passed through the active adapters in turn; in the layer's own dtype."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                result = self._adapted(result, name)
        return result

    def _adapted(self, hidden: Tensor, name: str) -> Tensor:
        down, up = self.bottleneck_down[name], self.bottleneck_up[name]
        cast = self._cast_input_dtype(hidden, down.weight.dtype)
        inner = self.bottleneck_function[name](down(self.bottleneck_dropout[name](cast)))
        # The sum is computed in the wider dtype and rounded once: no precision is lost before that, neither with an
        # fp32 adapter on a half-precision base nor with an fp32 residual and the bf16 adapters that TRL casts on a
        # quantised one.
        adapted: Tensor = (hidden + up(inner)).to(hidden.dtype)
        return adapted

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: a nonlinearity stands between the projections.

        Raises:
            ValueError: always.
        """
        raise ValueError(NEVER_MERGES)

    def unmerge(self) -> None:
        """Nothing was ever merged."""

    def __repr__(self) -> str:
        return f"bottleneck.{super().__repr__()}"


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Numbers of inputs and outputs, from the layer's attributes: a quantised weight has another shape."""
    inputs, outputs = (None, None) if isinstance(layer, _REFUSED) else _get_in_out_features(layer)
    if inputs is None or outputs is None:
        raise ValueError(f"a bottleneck adapter needs a linear layer, not {type(layer).__name__}")
    return inputs, outputs
