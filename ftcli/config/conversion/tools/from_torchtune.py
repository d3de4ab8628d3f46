"""torchtune: components by their Python names, and the defaults of those (0.6.1). None is imported: a name that this
table does not have is refused."""

from __future__ import annotations

import re
from typing import Any

from ftcli.config.conversion import common, schedule
from ftcli.config.conversion.draft import OFF, Draft, Occurrence
from ftcli.config.conversion.table import put
from ftcli.config.conversion.tools import torchtune_sets
from ftcli.core.strict_yaml import read_text

# Hub folders that torchtune's own recipes name below /tmp.
_OWNERS = {"Llama": "meta-llama", "Meta-Llama": "meta-llama", "CodeLlama": "codellama", "Mistral": "mistralai",
           "Mixtral": "mistralai", "gemma": "google", "Phi": "microsoft", "phi": "microsoft",
           "Qwen": "Qwen"}  # fmt: skip
_DOWNLOAD = re.compile(r"^#.*\btune download ([\w-][\w.-]*/[\w.-]+) --output-dir (\S+)", re.MULTILINE)
_OPTIMISERS = {"torch.optim.AdamW": "adamw_torch_fused", "torch.optim.Adam": "adamw_torch_fused",
               "torch.optim.SGD": "sgd", "bitsandbytes.optim.PagedAdamW": "paged_adamw_32bit",
               "bitsandbytes.optim.PagedAdamW8bit": "paged_adamw_8bit",
               "bitsandbytes.optim.AdamW8bit": "adamw_bnb_8bit",
               "torchao.prototype.low_bit_optim.AdamW8bit": "adamw_torch_8bit",
               "torchao.prototype.low_bit_optim.AdamW4bit": "adamw_torch_4bit"}  # fmt: skip
_HOLDERS = ("checkpointer", "teacher_checkpointer", "ref_checkpointer", "ref_policy_checkpointer",
            "value_checkpointer", "reward_checkpointer", "tokenizer", "teacher_model", "reward_and_value_model",
            "policy_model")  # fmt: skip
"""Mappings that say where weights and tokenizer are."""
_TRUSTED = ("torchtune.", "torch.", "torchao.", "bitsandbytes.")
_LORA_NAMES = {"output_proj": "o_proj"}
_FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj", "gate_proj": "gate_up_proj",
          "up_proj": "gate_up_proj"}  # fmt: skip
_MLP = ["gate_proj", "up_proj", "down_proj"]


def convert(draft: Draft) -> None:
    """Decide what its table cannot."""
    _references(draft)
    component = str(draft.get("model._component_", draft.get("policy_model._component_", "")))
    _method(draft)
    _adapter(draft, component)
    _model(draft, component)
    torchtune_sets.data(draft)
    _optimiser(draft)
    _run(draft)
    common.output(draft)
    for key in common.each(draft, "dtype"):
        _dtype(draft, key)
    for key in [k for k in draft.keys if k.name.endswith("_component_") and k.path not in draft.entries]:
        _component(draft, key)


def _references(draft: Draft) -> None:
    """Plain references to the file's own keys stand for their values."""
    data, referred = draft.file.data, set[str]()

    def resolved(value: Any, depth: int = 0) -> Any:
        if isinstance(value, dict):
            return {key: resolved(item, depth) for key, item in value.items()}
        if isinstance(value, list):
            return [resolved(item, depth) for item in value]
        if isinstance(value, str) and "${" in value and depth < 4:
            referred.update(re.findall(r"\$\{([\w.]+)\}", value))
            return resolved(re.sub(r"\$\{([\w.]+)\}", lambda m: str(draft.get(m[1], m[0]))[:4096], value), depth + 1)
        return value

    for name in list(data):
        data[name] = resolved(data[name])
    draft.__post_init__()
    for key in draft.keys:
        if key.name in referred and draft.importer.find(key.name) is None and not key.inside and "." not in key.name:
            draft.changed(key, "", "its value stands where other keys refer to it")


def _method(draft: Draft) -> None:
    loss, dataset = str(draft.get("loss._component_", "")), torchtune_sets.names(draft)
    if _answers_in_groups(draft):
        method = "grpo"
    elif "policy_model" in draft.file.data or "ppo_epochs" in draft.file.data:
        method = "ppo"
    elif "teacher_model" in draft.file.data or "teacher_checkpointer" in draft.file.data:
        method = "distillation"
    elif loss.endswith("RSOLoss") or loss.endswith("DPOLoss"):
        method = "dpo"
    elif dataset and all(name in torchtune_sets.TEXT_SETS for name in dataset):
        method = "pretrain"
    else:
        method = "sft"
    draft.choose("method", method)
    for key in common.each(draft, "loss._component_"):
        if loss.endswith("RSOLoss"):
            draft.put("method.loss_type", "hinge")
        draft.mapped(key, f"method={method}" + (" method.loss_type=hinge" if loss.endswith("RSOLoss") else ""))
    for key in common.each(draft, "loss.beta loss.label_smoothing"):
        put(draft, key, f"method.{key.name.rpartition('.')[2]}", key.value)
    if _answers_in_groups(draft):
        _grpo(draft)
    ppo = {"epsilon": "cliprange", "value_coeff": "vf_coef", "value_clip_range": "cliprange_value"}
    for name, ours in ppo.items():
        for key in common.each(draft, f"loss.{name}"):
            put(draft, key, f"method.{ours}", key.value)


def _answers_in_groups(draft: Draft) -> bool:
    """Whether it is one of torchtune's GRPO recipes, whose rewards are functions of its own sources."""
    losses = f"{draft.get('loss._component_', '')} {draft.get('training.loss._component_', '')}"
    return "GRPO" in losses or "grpo_samples" in draft.file.data or "reward_functions" in draft.file.data


def _grpo(draft: Draft) -> None:
    draft.unsupported.append("its rewards are code; method.reward_functions takes it with --allow-reward-code")
    for key in [each for each in draft.keys if each.path[0] == "reward_functions" and not each.inside]:
        draft.dropped(key, "refused: its rewards are Python code; method.rewards has rules")
    sampled = {
        "grpo_samples": "num_generations",
        "group_size": "num_generations",
        "ppo_epochs": "num_iterations",
        "kl_coeff": "beta",
        "epsilon": "epsilon",
        "temperature": "temperature",
        "max_generated_tokens": "max_completion_length",
    }
    for key in draft.keys:
        if (ours := sampled.get(key.name.rpartition(".")[2])) and key.value is not None and not key.inside:
            put(draft, key, f"method.{ours}", key.value)
    for key in common.each(draft, "loss._component_ training.loss._component_"):
        draft.mapped(key, "method=grpo")
    size, answers = draft.get("batch_size"), draft.settings.get("method.num_generations")
    if type(size) is int and type(answers) is int:
        draft.put("train.per_device_train_batch_size", size * answers)
        after = f"train.per_device_train_batch_size={size * answers}"
        draft.changed("batch_size", after, "rows of a step are answers here, and prompts there")


def _adapter(draft: Draft, component: str) -> None:
    name = component.rpartition(".")[2]
    peft = "lora" if name.startswith(("lora_", "qlora_")) else "none"
    if peft == "lora" and draft.get("model.use_dora"):
        peft = "dora"
    draft.choose("peft", peft)
    draft.mapped("model.use_dora", f"peft={peft}")
    if name.startswith("qlora_") or draft.get("model.quantize_base"):
        draft.choose("quantisation", "nf4")
        draft.mapped("model.quantize_base", "quantisation=nf4")
    if any(draft.get(f"model.{each}") for each in ("image_size", "encoder_trainable")) or "vision" in component:
        draft.unsupported.append("it trains on images, and ftcli on text alone")
    _targets(draft, peft, component)


def _targets(draft: Draft, peft: str, component: str) -> None:
    keys = common.each(draft, "model.lora_attn_modules model.apply_lora_to_mlp model.apply_lora_to_output")
    named = draft.get("model.lora_attn_modules", [])
    if peft == "none" or not isinstance(named, list):
        return
    modules = [_LORA_NAMES.get(str(each), str(each)) for each in named]
    modules += _MLP if draft.get("model.apply_lora_to_mlp") else []
    if ".phi3." in component or ".phi4." in component:  # whose layers in Hugging Face's files hold several of these
        modules = list(dict.fromkeys(_FUSED.get(each, each) for each in modules))
    output = bool(draft.get("model.apply_lora_to_output"))
    if modules:
        draft.put("peft.target_modules", modules)
    for key in keys:
        if key.name.endswith("apply_lora_to_output") and output:
            draft.dropped(key, "TRL's fused loss computes the head itself: an adapter on lm_head would not train")
        else:
            draft.mapped(key, f"peft.target_modules={modules}", "by the names of Hugging Face's layers")


def _model(draft: Draft, component: str) -> None:
    for key in common.each(draft, "model._component_ policy_model._component_"):
        draft.mapped(key, f"peft={draft.choices['peft']}", "the weights are those of checkpoint_dir")
    for key in common.each(draft, "checkpointer.checkpoint_dir"):
        found = _hub_name(draft, str(key.value))
        draft.put("model.name_or_path", found)
        if found == key.value:
            draft.mapped(key, f"model.name_or_path={found}")
        else:
            draft.changed(key, f"model.name_or_path={found}", "the hub's name of what was downloaded there")
    if "model.name_or_path" not in draft.settings:
        common.no_model(draft, "the file names no weights")
    for key in common.each(draft, "teacher_checkpointer.checkpoint_dir"):
        put(draft, key, "method.teacher_model", _hub_name(draft, str(key.value)))
    for key in common.each(draft, "reward_checkpointer.checkpoint_dir"):
        found = _hub_name(draft, str(key.value))
        put(draft, key, "method.reward_model", found)
    for key in draft.keys:
        outer = key.name.partition(".")[0]
        if (
            outer in _HOLDERS
            and key.value is not None
            and not key.inside
            and not key.name.endswith(("_component_", "max_seq_len"))
        ):
            draft.changed(key, "", "weights, tokenizer and template are found by model.name_or_path")
        elif outer in ("profiler", "metric_logger") and key.value is not None and not key.inside:
            _logged(draft, key)


def _logged(draft: Draft, key: Occurrence) -> None:
    if key.name.startswith("profiler") and draft.get("profiler.enabled") is not True:
        draft.mapped(key, "", "off there, and off here")
    else:
        draft.changed(key, "", "metrics.jsonl holds every value, of time and memory too")


def _hub_name(draft: Draft, folder: str) -> str:
    """The hub id of a folder that `tune download` made, by the file's comments or its usual owner; or the folder."""
    for hub_id, made in _DOWNLOAD.findall(read_text(draft.file.path, draft.file.shown)):
        if made.rstrip("/") == folder.removesuffix("/original").rstrip("/"):
            return str(hub_id)
    match = re.match(r"/tmp/([\w.-]+)(/original)?/?$", folder)
    if match is None:
        return folder
    owner = next((owner for start, owner in _OWNERS.items() if match[1].startswith(start)), None)
    return f"{owner}/{match[1]}" if owner else folder


def _optimiser(draft: Draft) -> None:
    for key in common.each(draft, "optimizer._component_"):
        if str(key.value) in _OPTIMISERS:
            schedule.optimiser(draft, "optimizer._component_", _OPTIMISERS)
        elif not str(key.value).startswith(_TRUSTED):
            draft.dropped(key, f"refused: {key.value} names Python code to be called")
        else:
            draft.dropped(key, "no optimiser of transformers")
    betas = draft.get("optimizer.betas")
    if isinstance(betas, list) and len(betas) == 2:
        draft.put("train.adam_beta1", betas[0])
        draft.put("train.adam_beta2", betas[1])
        draft.mapped("optimizer.betas", f"train.adam_beta1={betas[0]} train.adam_beta2={betas[1]}")
    for key in common.each(draft, "optimizer.eps"):
        put(draft, key, "train.adam_epsilon", key.value)
    for key in common.each(draft, "lr_scheduler._component_"):
        if str(key.value).endswith("get_cosine_schedule_with_warmup"):
            put(draft, key, "train.lr_scheduler_type", "cosine")
        else:
            draft.dropped(key, f"refused: {key.value} names Python code to be called")


def _run(draft: Draft) -> None:
    for key in common.each(draft, "enable_activation_offloading"):
        if key.value not in OFF:
            draft.put("train.gradient_checkpointing", True)
            draft.changed(key, "train.gradient_checkpointing=true", "activations are computed again, not moved away")
    for key in common.each(draft, "max_steps_per_epoch"):
        epochs = draft.get("epochs", 1)
        steps = key.value * epochs if isinstance(key.value, int) and isinstance(epochs, int) else None
        if steps and steps > 0:
            draft.put("train.max_steps", steps)
            draft.changed(key, f"train.max_steps={steps}", "of the whole run: the steps of an epoch times the epochs")
            draft.changed(
                "epochs", f"train.max_steps={steps}", "of the whole run: the steps of an epoch times the epochs"
            )
    for key in common.each(draft, "clip_grad_norm"):
        put(draft, key, "train.max_grad_norm", key.value)
    for key in common.each(draft, "fsdp_cpu_offload"):
        if key.value:
            draft.choose("hardware", "fsdp_offload")
            draft.mapped(key, "hardware=fsdp_offload")
    for key in common.each(draft, "device"):
        if key.value == "cpu":
            draft.choose("hardware", "cpu")
            draft.mapped(key, "hardware=cpu")
    for key in common.each(draft, "collate_fn"):
        if not str(key.value).startswith("torchtune."):
            draft.dropped(key, f"refused: {key.value} names Python code to be called")


def _dtype(draft: Draft, key: Occurrence) -> None:
    if key.value == "bf16":
        if draft.choices["peft"] == "none":
            draft.changed(key, "", "what trains is held in float32, and computed in bfloat16; there all is bfloat16")
        else:
            draft.mapped(key, "", "the base is held in bfloat16 where the hardware has it")
    elif key.value in ("fp32", "float32"):
        draft.put("model.dtype", "float32")
        draft.mapped(key, "model.dtype=float32")
    else:
        draft.changed(key, "", "derived from the hardware")


def _component(draft: Draft, key: Occurrence) -> None:
    if str(key.value).startswith(_TRUSTED):
        outer = key.name.partition(".")[0]
        if outer in ("quantizer", "tensor_parallel_plan"):
            return
        if outer == "profiler":
            _logged(draft, key)
        else:
            draft.changed(key, "", "a part of torchtune's own; ftcli's takes its place")
    else:
        draft.dropped(key, f"refused: {key.value} names Python code to be called")


def defaults(draft: Draft) -> None:
    """Write out the defaults of the tool that differ from ours."""
    why = "torchtune's default"
    draft.default("data.overflow", "truncate_right", "torchtune cuts longer rows off") \
        if "data.max_length_tokens" in draft.settings else None  # fmt: skip
    draft.default(
        "train.lr_scheduler_type", "constant", f"{why}: no scheduler"
    ) if "lr_scheduler" not in draft.file.data else None
    if draft.get("lr_scheduler.num_warmup_steps") is None:
        draft.default("train.warmup_steps", 0, f"{why}: no warm-up")
    if draft.get("optimizer.weight_decay") is None and "AdamW" in str(draft.get("optimizer._component_")):
        draft.default("train.weight_decay", 0.01, "AdamW's default in torch")
    if draft.get("clip_grad_norm") is None:
        draft.default("train.max_grad_norm", 0.0, f"{why}: gradients are not clipped")
    if draft.get("gradient_accumulation_steps") is None:
        draft.default("train.gradient_accumulation_steps", 1, why)
    if draft.get("enable_activation_checkpointing") is None:
        draft.default("train.gradient_checkpointing", False, why)
    if draft.get("dataset.packed") is None:
        draft.default("method.packing", False, why)
    if draft.choices["method"] in ("dpo",) and draft.get("loss.beta") is None:
        draft.default("method.beta", 0.1, why)
    if draft.choices["peft"] != "none":
        draft.default("peft.lora_dropout", 0.0, why)
