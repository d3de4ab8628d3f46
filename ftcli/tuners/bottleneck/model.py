"""Puts bottleneck adapters into a model: behind the last linear layer of each attention and feed-forward.

That is where Houlsby et al. put them: on the sub-layer's output, before its residual is added. Pfeiffer et al. keep the
one behind the feed-forward. Departs from both in what the decoders of today make necessary: the layer norms of the base
stay frozen (Houlsby trains them), and where a family norms a sub-layer's output once more (Gemma 2 and 3) the adapter
comes before that norm. A mixture of experts has no last layer of its feed-forward, so its targets must be named.
"""

from __future__ import annotations

from typing import Any, ClassVar

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from ftcli.tuners.bottleneck.config import BottleneckConfig
from ftcli.tuners.bottleneck.layer import BottleneckLayer

_GATED = ("self_attn.o_proj", "mlp.down_proj")
SUBLAYERS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _GATED),
    **dict.fromkeys(("phi3", "smollm3", "olmo2", "granite", "cohere", "glm4", "stablelm"), _GATED),
    "phi": ("self_attn.dense", "mlp.fc2"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "opt": ("self_attn.out_proj", "fc2"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "falcon": ("self_attention.dense", "mlp.dense_4h_to_h"),
}
"""Last layer of the attention and of the feed-forward, by model type."""


class BottleneckModel(BaseTuner):
    """A model with bottleneck adapters in it."""

    prefix: str = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _prepare_adapter_config(self, peft_config: BottleneckConfig, model_config: dict[str, Any]) -> BottleneckConfig:
        if peft_config.target_modules is None:
            kind = str(model_config.get("model_type"))
            if kind not in SUBLAYERS:
                raise ValueError(f"no place for adapters is known in {kind} models; name target_modules")
            both = SUBLAYERS[kind]
            peft_config.target_modules = list(both[1:] if peft_config.placement == "pfeiffer" else both)
        return peft_config

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise ValueError("bottleneck adapters cannot be merged: a nonlinearity stands between their projections")
