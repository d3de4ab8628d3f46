"""A new adapter on the policy of a trainer of our own, as TRL's trainers put one on theirs."""

from __future__ import annotations

from typing import Any


def with_new_adapter(model: Any, peft_config: Any, args: Any) -> Any:
    """The model with an adapter that trains, as a PeftModel.

    Two rules are DeepSpeed's. ZeRO-3 gathers the parameters that it does not shard into one buffer of one type, so an
    adapter has the type of its base there and not float32 (DeepSpeed issue 8072); DeepSpeed holds float32 masters
    itself. And its hooks count each layer once, so layers are recomputed by torch's older, reentrant checkpointing
    (TRL issue 2514).

    Args:
        args: the trainer's config; its gradient_checkpointing_kwargs are completed.
    """
    from peft import get_peft_model  # imported only if there is an adapter

    plugin = getattr(args, "deepspeed_plugin", None)
    is_zero3 = plugin is not None and plugin.zero_stage == 3
    quantised = getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)
    adapted = get_peft_model(model, peft_config, autocast_adapter_dtype=not is_zero3 or quantised)
    if args.gradient_checkpointing:
        if is_zero3:
            args.gradient_checkpointing_kwargs = {**(args.gradient_checkpointing_kwargs or {}), "use_reentrant": True}
        # The frozen layers below the first adapter would otherwise break the graph that is recomputed.
        adapted.enable_input_require_grads()
    return adapted
