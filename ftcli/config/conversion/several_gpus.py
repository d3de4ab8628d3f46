"""DeepSpeed, FSDP and DDP as the hardware profile that does the same."""

from __future__ import annotations

import re
from typing import Any

from ftcli.config.conversion.common import each
from ftcli.config.conversion.draft import OFF, Draft, Occurrence


def sharding(draft: Draft) -> None:
    """DeepSpeed and FSDP as the hardware profile that does the same."""
    value = draft.get("deepspeed")
    for key in each(draft, "deepspeed"):
        profile = _zero(value)
        if profile is None:
            draft.changed(key, "", "ZeRO stage 0 or 1 shards no weights: hardware=multi_gpu is enough")
        else:
            draft.choose("hardware", profile)
            draft.changed(key, f"hardware={profile}", "the profile's own configuration of DeepSpeed, by its stage")
    for key in [k for k in draft.keys if k.name.startswith("deepspeed.") and k.value is not None]:
        draft.changed(key, f"hardware={draft.choices.get('hardware', 'auto')}", "the profile's own configuration")
    fsdp, config = draft.get("fsdp"), draft.get("fsdp_config")
    if fsdp or isinstance(config, dict):
        offload = (
            "offload" in str(fsdp)
            or any(config.get(name) in (True, "true") for name in ("offload_params", "fsdp_offload_params"))
            if isinstance(config, dict)
            else "offload" in str(fsdp)
        )
        if draft.choices.get("quantisation") == "int8":
            _unsharded(draft)
            return
        profile = "fsdp_offload" if offload else "fsdp"
        draft.choose("hardware", profile)
        for key in each(draft, "fsdp fsdp_version fsdp_transformer_layer_cls_to_wrap dp_shard_size"):
            draft.mapped(key, f"hardware={profile}")
        for key in [k for k in draft.keys if k.name.startswith("fsdp_config") and k.value is not None]:
            _fsdp(draft, key, profile)


def _unsharded(draft: Draft) -> None:
    """A base in 8 bits on several GPUs: each holds all of it, since FSDP cannot shard its scales."""
    draft.choose("hardware", "multi_gpu")
    for key in draft.keys:
        if key.name.partition(".")[0] in ("fsdp", "fsdp_config", "fsdp_version") and key.value is not None:
            draft.changed(key, "hardware=multi_gpu", "weights in 8 bits are not sharded: each GPU holds all of them")


def _zero(value: Any) -> str | None:
    text = str(value).lower()
    stage = re.search(r"(?:z|zero|stage['\": ]*|zero_?)_?([0-3])", text)
    if stage is None or stage[1] in "01":
        return None
    return f"zero{stage[1]}" + ("_offload" if "offload" in text else "")


def _fsdp(draft: Draft, key: Occurrence, profile: str) -> None:
    name = key.name.rpartition(".")[2].removeprefix("fsdp_")
    if name == "activation_checkpointing" and key.value:
        draft.put("train.gradient_checkpointing", True)
        draft.mapped(key, "train.gradient_checkpointing=true")
    elif name in ("sharding_strategy", "reshard_after_forward", "offload_params", "version") or key.value in OFF:
        draft.mapped(key, f"hardware={profile}")
    else:
        draft.changed(key, f"hardware={profile}", "the profile wraps each layer and saves the whole model by itself")


def ddp(draft: Draft) -> None:
    """How processes wait for each other is a matter of the hardware profile."""
    for key in each(draft, "ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers"):
        draft.changed(key, "", "chosen by the hardware profile, where there are several processes")
