"""Loading weights that are stored quantised: turned into plain ones where transformers can, else as they are."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AutoQuantizationConfig

from ftcli.models.stored_quantisation import DEQUANTISED, FORMATS


def turned_plain(config: PreTrainedConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained` that turn stored quantised weights into plain ones while they are loaded.

    Without them transformers decides by the machine (a GPU with kernels keeps FP8 and MXFP4, a CPU does not), so that
    the same run would train other layers, or none. {} for plain weights and for formats that stay as they are.
    """
    declared = getattr(config, "quantization_config", None)
    if not isinstance(declared, dict):
        return {}
    about = FORMATS.get(str(declared.get("quant_method")))
    if about is None or about.loads != DEQUANTISED:
        return {}
    return {"quantization_config": AutoQuantizationConfig.from_dict({**declared, "dequantize": True})}


def saved_plain(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model whose weights were turned plain save them plain.

    transformers 5.23 saves by turning round what it did while loading: it would write the weights quantised again, with
    a config.json that no longer says so, and whatever loads that model reads garbage.
    """
    model._weight_conversions = None
    return model


def unquantised(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of random weights, which are quantised by nobody, whatever the stored ones are."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def without_kernels(config: PreTrainedConfig) -> PreTrainedConfig:
    """A stored configuration that leaves the choice of kernels to the run.

    A config.json may name an attention kernel, which wins over the one that from_pretrained is asked for, and
    `organisation/name` is a kernel of the hub: code that runs.
    """
    config._attn_implementation = None
    config._experts_implementation = None
    return config
