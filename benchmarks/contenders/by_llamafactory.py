"""LLaMA-Factory, by `llamafactory-cli train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contenders.work import RANK, CannotDo, Contender, Work

_STAGES = {"sft": "sft", "dpo": "dpo", "orpo": "dpo", "kto": "kto", "reward": "rm"}
_PEERS = Path(__file__).resolve().parents[2] / "ftcli" / "worker" / "peers"
# It imports torchaudio, which it needs for sound alone and which is not installed.
_CLI = f"import sys; sys.path.append({str(_PEERS)!r}); import of_llama_factory as peer; peer.without_sound(); "
_CLI += "from llamafactory.cli import main; main()"


def arguments(work: Work, folder: Path) -> list[str]:
    """Its command with a file of settings."""
    if work.processes > 1:
        raise CannotDo("several processes are only measured against TRL")
    (folder / "dataset_info.json").write_text(json.dumps({"rows": _entry(work)}), encoding="utf-8")
    settings: dict[str, Any] = {
        "stage": _STAGES[work.method], "do_train": True, "finetuning_type": "lora", "lora_rank": RANK,
        "lora_alpha": 2 * RANK, "lora_dropout": 0.0, "lora_target": "all", "model_name_or_path": str(work.model),
        "template": "chatml", "dataset": "rows", "dataset_dir": str(folder), "cutoff_len": work.longest,
        "flash_attn": "sdpa", "output_dir": str(folder / "out"), "per_device_train_batch_size": work.batch,
        "gradient_accumulation_steps": 1, "learning_rate": 1e-4, "num_train_epochs": 1.0, "logging_steps": 10,
        "max_steps": work.steps or -1, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "disable_gradient_checkpointing": True, "dataloader_pin_memory": False, "disable_tqdm": True,
        "overwrite_output_dir": True, "bf16": work.bfloat16,
        "preprocessing_num_workers": work.workers if work.workers > 1 else None,
    }  # fmt: skip
    if work.method == "orpo":
        settings["pref_loss"] = "orpo"
    if work.packed:
        settings |= {"packing": True, "neat_packing": work.apart}
    elif work.grouped:
        settings["train_sampling_strategy"] = "group_by_length"
    file = folder / "train.yaml"
    file.write_text(json.dumps(settings), encoding="utf-8")
    return ["-c", _CLI, "train", str(file)]


def _entry(work: Work) -> dict[str, Any]:
    """What dataset_info.json says of the rows."""
    if work.method == "sft":
        return {"file_name": str(work.rows["alpaca"])}
    entry: dict[str, Any] = {"file_name": str(work.rows["sharegpt"]), "formatting": "sharegpt"}
    if work.method == "kto":
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        return {**entry, "columns": {"messages": "messages", "kto_tag": "label"}, "tags": tags}
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    return {**entry, "ranking": True, "columns": columns}


CONTENDER = Contender(
    "llamafactory",
    "llamafactory",
    frozenset(_STAGES),
    arguments,
    settings="whole logits; rows of one length together; packed with neat_packing",
    alone=("llamafactory==0.9.5",),
)
