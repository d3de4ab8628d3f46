"""Puts bottleneck adapters into a model: after the last linear layer of each attention and feed-forward.

That is where Houlsby et al. put them: on the sub-layer's output, before its residual is added. Pfeiffer et al. keep
only the one after the feed-forward. The last linear layer is wrapped and not the sub-layer, because it returns one
tensor of the hidden size in every family, quantised or not; attention modules return tuples.

Differs from both papers, which are about BERT, where frozen decoders require it:

- The layer norms of the base stay frozen, so that one base serves every adapter; Houlsby et al. train them.
  `modules_to_save` can name them.
- The adapter of Pfeiffer et al. comes after the block's residual and norm, and is followed by both again (AdapterHub:
  original_ln_before, original_ln_after, residual_before_ln). Decoders norm before a sub-layer, so there is no such
  norm: here both placements come before the residual, and differ only in the number of adapters.
- If a family does more with a sub-layer's output, the adapter comes before that: a norm (Gemma 2 and 3, OLMo 2, GLM 4),
  dropout (GPT-2, OPT, Phi), a factor (Granite).
- A mixture of experts has no single last layer of its feed-forward, so its targets must be named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from ftcli.worker.tuners.bottleneck.config import BottleneckConfig
from ftcli.worker.tuners.bottleneck.layer import NEVER_MERGES, BottleneckLayer

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
"""Last layer of the attention and of the feed-forward, by model type; tests compare it with transformers."""

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""What model configs call the number of experts."""


def default_targets(model_config: Mapping[str, Any], placement: str) -> list[str]:
    """Name suffixes of the layers that get an adapter.

    Raises:
        ValueError: the family is not listed, or has experts in its feed-forward.
    """
    kind = str(model_config.get("model_type"))
    if kind in SUBLAYERS:
        return list(SUBLAYERS[kind][1:] if placement == "pfeiffer" else SUBLAYERS[kind])
    if any(model_config.get(name) for name in _EXPERTS):
        raise ValueError(
            f"{kind} models have experts in their feed-forward, which has no single last layer; "
            "name target_modules, such as self_attn.o_proj"
        )
    raise ValueError(f"the layers for bottleneck adapters are unknown for {kind} models; name target_modules")


class BottleneckModel(BaseTuner):
    """A model with bottleneck adapters in it."""

    prefix: str = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {kind: list(both) for kind, both in SUBLAYERS.items()}

    def _prepare_adapter_config(self, peft_config: BottleneckConfig, model_config: dict[str, Any]) -> BottleneckConfig:
        if peft_config.target_modules is None:
            peft_config.target_modules = default_targets(model_config, peft_config.placement)
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
        # inject_adapter sets which adapter is active and trains, once all are injected.
        self._replace_module(parent, target_name, BottleneckLayer(target, adapter_name, peft_config), target)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        # PEFT ignores the argument for a tuner that does not support it, and every row would get the active adapter.
        if kwargs.get("adapter_names") is not None:
            raise ValueError("bottleneck adapters take one adapter per batch: use set_adapter, not adapter_names")
        yield

    def _check_merge_allowed(self) -> None:
        raise ValueError(NEVER_MERGES)
