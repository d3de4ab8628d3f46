"""Linear layers that bitsandbytes quantises while weights are loaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig, PreTrainedModel

from ftcli.settings.groups import QuantisationSettings


def keeping_numbers(model: PreTrainedModel) -> PreTrainedModel:
    """Make quantised layers on a CPU keep the scales that they were loaded with (bitsandbytes 0.50).

    8-bit layers lose their scales: PEFT moves a weight after reading its values, and the copy has no scales; DoRA reads
    them at every step, for the norm. 4-bit layers round their scales to bf16 at the first evaluation on CPUs that
    multiply in bf16, and fail if a layer's number of inputs is not a multiple of the block size.
    """

    def restore_scales(module: Any, _inputs: Any) -> None:
        if module.weight.SCB is None:
            module.weight.SCB = module.state.SCB

    for module in model.modules():
        if type(module).__name__ == "Linear8bitLt":
            module.register_forward_pre_hook(restore_scales)
        elif type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
    return model


def bitsandbytes_config(
    quantisation: QuantisationSettings, auto_class: Any, shard_dtype: str | None = None
) -> BitsAndBytesConfig:
    """The bitsandbytes config of a quantisation.

    Args:
        shard_dtype: the type as which the bytes of 4-bit weights are held; None is uint8, which nothing shards.
    """
    # The output head stays unquantised: a new one has no stored weights to quantise, and is trained.
    skipped = [
        *(quantisation.skip_modules or ()),
        *(["score"] if auto_class is AutoModelForSequenceClassification else ["lm_head"]),
    ]
    if quantisation.type == "int8":
        return BitsAndBytesConfig(
            load_in_8bit=True,
            llm_int8_threshold=quantisation.int8_threshold,
            llm_int8_skip_modules=skipped,
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantisation.type.removesuffix("_double"),
        bnb_4bit_use_double_quant=quantisation.type.endswith("_double"),
        bnb_4bit_compute_dtype=getattr(torch, quantisation.compute_dtype.replace("auto", "float32")),
        bnb_4bit_quant_storage=shard_dtype,
        llm_int8_skip_modules=skipped,
    )
