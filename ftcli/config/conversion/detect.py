"""Which tool a configuration belongs to, or what else it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.config.conversion.foreign_file import ForeignFile
from ftcli.config.importers import all_importers
from ftcli.core.errors import ConfigError, Problem
from ftcli.settings import library_fields

TOOLS = ("llama_factory", "axolotl", "ms_swift", "trl", "torchtune")
"""The tools whose files are imported."""
_PROGRAMS = {"swift": "ms_swift", "llamafactory-cli": "llama_factory", "trl": "trl"}

# Keys that only one tool has, and of which a training of it has at least one.
_SIGNS: Mapping[str, str] = {
    "llama_factory": "stage finetuning_type cutoff_len template dataset_dir lora_target train_dataset peft_config "
    "quantization_bit model_class dist_config overwrite_cache pref_loss",
    "axolotl": "base_model sequence_len micro_batch_size sample_packing datasets val_set_size adapter "
    "dataset_prepared_path saves_per_epoch evals_per_epoch pretraining_dataset",
    "ms_swift": "tuner_type train_type sft_type rlhf_type model_id_or_path split_dataset_ratio loss_scale "
    "quant_bits lorap_lr_ratio truncation_strategy model_author torch_dtype",
    "trl": "dataset_mixture dataset_mixer dataset_name use_peft lora_r lora_target_modules max_prompt_length "
    "dataset_train_split model_name_or_path torch_dtype",
}


def other_kind(file: ForeignFile) -> tuple[str, str] | None:
    """What a file is that is no training, and what to do with it; None of one that may be."""
    data = file.data
    if (
        "zero_optimization" in data
        or "train_micro_batch_size_per_gpu" in data
        or "zero_force_ds_cpu_initialization" in data
    ):
        return "is a configuration of DeepSpeed", "its training's own file names it; here it is hardware=zero2 or zero3"
    if "compute_environment" in data or ("distributed_type" in data and "num_processes" in data):
        return (
            "is a configuration of accelerate",
            "here it is hardware=multi_gpu, fsdp, zero2 or zero3 (ftcli list hardware)",
        )
    if set(data) <= {"fsdp", "fsdp_config"} and data:
        return "is a setting of FSDP", "here it is hardware=fsdp or fsdp_offload"
    preview = data.get("peft_config")
    if "export_dir" in data or (isinstance(preview, dict) and "export_dir" in preview):
        return "merges an adapter, and trains nothing", "ftcli merge RUN writes the merged model"
    if {"provider", "gpu"} <= set(data) or {"volumes", "dockerfile_commands"} <= set(data):
        return (
            "describes a machine in a cloud",
            "import the training's own file; hardware.gpu names a card for ftcli plan",
        )
    if (
        "train_iters" in data
        or {"tensor_model_parallel_size", "lr"} <= set(data)
        or isinstance(data.get("train"), dict)
    ):
        fix = "ftcli trains with TRL: import the configuration without Megatron; hardware=fsdp or zero3 shards a model"
        return "is a training with Megatron or Ray", fix
    if _is_dataset_info(data):
        return "is a register of data sets", "it is read where it lies when the training's own file is imported"
    if _infers(data):
        return "answers or measures, and trains nothing", "ftcli chat, ftcli generate and ftcli eval do that"
    if "ftcli" in data:
        return "is a recipe of ftcli already", "ftcli check recipe=FILE checks it"
    return None


def _is_dataset_info(data: Mapping[str, Any]) -> bool:
    places = ("file_name", "hf_hub_url", "ms_hub_url", "converter")
    return bool(data) and all(isinstance(each, dict) and any(key in each for key in places) for each in data.values())


def _infers(data: Mapping[str, Any]) -> bool:
    """Whether a file of LLaMA-Factory, ms-swift or torchtune only answers, measures or quantises."""
    if "checkpointer" in data:
        return "optimizer" not in data and "dataset" not in data
    trains = (
        "stage",
        "do_train",
        "learning_rate",
        "num_train_epochs",
        "dataset",
        "datasets",
        "train_dataset",
        "max_steps",
    )
    answers = (
        "infer_backend",
        "sample_backend",
        "template",
        "max_new_tokens",
        "sampler_type",
        "adapters",
        "eval_dataset",
    )
    return not any(key in data for key in trains) and any(key in data for key in answers)


def detected(file: ForeignFile, wanted: str | None) -> str:
    """The tool of a file.

    Args:
        wanted: the tool that the user named.

    Raises:
        ConfigError: it is of no known tool, is no training, or several tools are equally likely.
    """
    where = file.shown
    if file.command:
        return _PROGRAMS[file.command[0]]
    kind = other_kind(file)
    if kind is not None:
        raise ConfigError(Problem(where, kind[0], kind[1]))
    if wanted is not None:
        return wanted
    scores = _scores(file.data)
    best = max(scores.values(), default=0)
    likely = [tool for tool, score in scores.items() if score == best]
    titles = {tool: all_importers()[tool].title for tool in likely}
    if best < 2:
        fix = f"name its tool with --from: {', '.join(TOOLS)}"
        raise ConfigError(Problem(where, "is a training of no tool that is known", fix))
    if len(likely) > 1:
        fix = f"say which with --from {' or --from '.join(likely)}"
        raise ConfigError(Problem(where, f"may be of {' or of '.join(titles.values())}", fix))
    return likely[0]


def _scores(data: Mapping[str, Any]) -> dict[str, float]:
    """How much of a file each tool knows: its own keys count most, and all of them a little."""
    if _is_torchtune(data):
        return {"torchtune": 10.0}
    if "train_dataset" in data and "model" in data and ("dist_config" in data or "kernel_config" in data):
        return {"llama_factory": 10.0}
    trainer = library_fields.fields_of(library_fields.TRAINING_ARGUMENTS)
    found = {}
    for tool, signs in _SIGNS.items():
        own = sum(key in data for key in signs.split())
        known = sum(all_importers()[tool].find(key) is not None or key in trainer for key in data)
        found[tool] = (own * 2 + known / max(1, len(data))) * (own > 0)
    return found


def _is_torchtune(data: Mapping[str, Any]) -> bool:
    parts = [each for each in data.values() if isinstance(each, dict) and "_component_" in each]
    return bool(parts) and ("checkpointer" in data or "tokenizer" in data)
