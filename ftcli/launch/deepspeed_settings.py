"""DeepSpeed's configuration for the stages of ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054)."""

from __future__ import annotations

from typing import Any


def zero(stage: int, *, offload: bool = False) -> dict[str, Any]:
    """`train.deepspeed` for a stage of ZeRO; batch, clipping and precision follow the run's own settings.

    Args:
        stage: 2 shards gradients and optimiser state, 3 the weights as well.
        offload: whether the optimiser state, and at stage 3 the weights, lie in the host's memory.
    """
    sharding: dict[str, Any] = {"stage": stage}
    if stage == 3:
        # Without it the finished model stays in pieces, and no model.safetensors is written.
        sharding["stage3_gather_16bit_weights_on_model_save"] = True
    if offload:
        sharding["offload_optimizer"] = {"device": "cpu"}
        if stage == 3:
            sharding["offload_param"] = {"device": "cpu"}
    settings: dict[str, Any] = {
        "zero_optimization": sharding,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }
    if offload:
        # DeepSpeed's own Adam is compiled at its first use; torch's fused one runs on the host too, and computes what
        # the other profiles compute.
        settings["zero_force_ds_cpu_optimizer"] = False
    return settings
