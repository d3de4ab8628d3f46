"""Axolotl: lists of data sets with prompt strategies, adapters by name, and the defaults of its schema (0.19.0)."""

from __future__ import annotations

import re

from ftcli.config.conversion import common, rows, schedule, several_gpus
from ftcli.config.conversion.draft import OFF, Draft
from ftcli.config.conversion.table import put
from ftcli.config.conversion.tools.axolotl_sets import TEXT, held_out, items, read_set, strategy, types_of

_SPLITS = ("pretrain",)
"""Methods that split longer rows, as Axolotl does."""
_RL = {"dpo": "dpo", "ipo": "ipo", "kto": "kto", "orpo": "orpo", "simpo": "simpo", "grpo": "grpo"}
_TEMPLATES = {"qwen_25": "qwen2_5", "llama3": "llama3", "gemma3": "gemma3", "phi_3": "phi3", "phi_35": "phi3_5",
              "qwen3_5": "qwen3_5_think", "qwen3": "qwen3", "deepseek_v3": "deepseekv3", "cohere": "cohere",
              "gemma": "gemma", "chatml": "chatml", "llama3_2_vision": "llama3_2"}  # fmt: skip
_LIGER = "TRL's loss is fused with the head by itself; the layers are those of transformers"
_SPECIAL = "the tokens are the tokenizer's own; turn ends are those of the chat template, and padding is never trained"
_SETS = ("datasets", "pretraining_dataset", "test_datasets")
_SPEED = (
    "lora_mlp_kernel lora_qkv_kernel lora_o_kernel use_kernels fused_attn_kernel flash_attn_cross_entropy "
    "flash_attn_rms_norm flash_attn_fuse_mlp flash_attn_fuse_qkv flash_optimum use_scattermoe use_sonicmoe "
    "experts_implementation cut_cross_entropy tiled_mlp flex_attn_compile_kwargs liger_glu_activation liger_rms_norm "
    "liger_layer_norm liger_rope liger_fused_linear_cross_entropy liger_cross_entropy liger_rms_norm_gated "
    "gemma4_hybrid_attn_impl"
)
_SAFE_PLUGINS = ("axolotl.integrations.liger", "axolotl.integrations.cut_cross_entropy", "axolotl.integrations.kernels")


def convert(draft: Draft) -> None:
    """Decide what its table cannot."""
    _method(draft)
    _adapter(draft)
    common.trust(draft)
    common.model(draft, "base_model")
    _data(draft)
    measured = held_out(draft)
    common.output(draft)
    common.uploads(draft)
    common.precision(draft)
    common.attention(draft, "attn_implementation flash_attention sdp_attention eager_attention flex_attention "
                            "xformers_attention")  # fmt: skip
    schedule.checkpointing(draft)
    schedule.cadence(draft, measured)
    epochs = draft.get("num_epochs", 1)
    schedule.per_epoch(draft, "evals_per_epoch", "eval", epochs)
    schedule.per_epoch(draft, "saves_per_epoch", "save", epochs)
    several_gpus.sharding(draft)
    several_gpus.ddp(draft)
    _batch(draft)
    _schedule(draft)
    common.sampling(draft, "trl.")
    for key in common.each(draft, "trl.reward_funcs"):
        common.rewards(draft, key)
    _tokens(draft)
    _code(draft)
    _images(draft)
    schedule.optimiser(draft, "optimizer")
    schedule.length_of_run(draft)


def _method(draft: Draft) -> None:
    rl, types = draft.get("rl"), types_of(draft)
    if rl is not None and str(rl) not in _RL:
        draft.unsupported.append(f"rl {rl} is no method of ftcli; this is the rest of it, as method=sft")
        draft.dropped("rl", f"ftcli has {', '.join(f'method={each}' for each in _RL)}")
        method = "sft"
    elif rl is not None:
        method = _RL[str(rl)]
    elif draft.get("reward_model"):
        method = "reward"
    elif draft.get("process_reward_model"):
        draft.unsupported.append("a process reward model is none of ftcli's")
        method = "reward"
    elif draft.get("pretraining_dataset") or (types and all(strategy(each) in TEXT for each in types)):
        method = "pretrain"
    else:
        method = "sft"
    if draft.get("diffusion") or "diffusion" in str(draft.get("plugins", "")).lower():
        draft.unsupported.append("a diffusion language model is none of ftcli's")
    draft.choose("method", method)
    draft.mapped("rl", f"method={method}")
    draft.mapped("reward_model", f"method={method}")
    for key in common.each(draft, "num_labels"):
        draft.mapped(key, "", "a reward model has one")
    for key in common.each(draft, "rl_beta dpo_beta orpo_alpha"):
        if draft.has("method.beta"):
            put(draft, key, "method.beta", key.value)
    for key in common.each(draft, "ebft qat"):
        if key.value not in OFF:
            draft.unsupported.append(f"{key.name} is none of ftcli's")


def _adapter(draft: Draft) -> None:
    name = draft.get("adapter")
    bits4, bits8 = draft.get("load_in_4bit"), draft.get("load_in_8bit")
    peft = {"lora": "lora", "qlora": "lora", "None": "none"}.get(str(name), "lora")
    if str(name) not in ("lora", "qlora", "None"):
        draft.unsupported.append(f"adapter {name} is none of ftcli's")
    for switch, other in (("peft_use_dora", "dora"), ("peft_use_rslora", "rslora"), ("loraplus_lr_ratio", "loraplus")):
        if peft == "lora" and draft.get(switch):
            peft = other
    if peft == "none" and draft.get("unfrozen_parameters"):
        peft = "freeze"
        for each in common.each(draft, "unfrozen_parameters"):
            found = [_module(text) for text in each.value if isinstance(text, str)]
            draft.put("peft.modules", [text for text in found if text])
            draft.choose("peft", "freeze")
            draft.changed(each, "peft=freeze peft.modules", "modules by name here, a pattern of parameters there")
    draft.choose("peft", peft)
    draft.mapped("adapter", f"peft={peft}" if name != "qlora" else f"peft={peft} quantisation=nf4")
    double = draft.get("bnb_config_kwargs.bnb_4bit_use_double_quant", True)
    kind = str(draft.get("bnb_config_kwargs.bnb_4bit_quant_type", "nf4"))
    choice = None
    if bits8 and not bits4 and name != "qlora":
        choice = "int8"
    elif bits4 or name == "qlora":
        choice = "fp4" if kind == "fp4" else "nf4_double" if double in (True, "true") else "nf4"
    if choice and peft not in ("none", "freeze"):
        draft.choose("quantisation", choice)
        for key in common.each(draft, "load_in_4bit load_in_8bit"):
            if key.value:
                draft.mapped(key, f"quantisation={choice}")
        for key in [k for k in draft.keys if k.name.startswith("bnb_config_kwargs.")]:
            draft.mapped(key, f"quantisation={choice}")
    elif choice:
        for key in common.each(draft, "load_in_4bit load_in_8bit"):
            if key.value:
                draft.dropped(key, "a quantised base trains only through an adapter")
    for key in common.each(draft, "lora_target_linear"):
        if key.value:
            put(draft, key, "peft.target_modules", "all-linear")
    for key in common.each(draft, "lora_target_modules"):
        put(draft, key, "peft.target_modules", key.value)
    for key in common.each(draft, "lora_model_dir"):
        draft.put("model.name_or_path", key.value)
        draft.changed(key, f"model.name_or_path={key.value}", "an adapter's folder is a model here: its base is found")


def _module(pattern: str) -> str:
    """The module that a pattern of parameter names begins with."""
    plain = re.sub(r"\.(weight|bias|\*)$|[\^$]|\.\*$|\[\d.*$", "", pattern).strip(".")
    return plain if re.fullmatch(r"[\w.]+", plain) else ""


def _data(draft: Draft) -> None:
    sets = []
    for name in ("datasets", "pretraining_dataset"):
        for index, item in enumerate(items(draft.file.data.get(name))):
            found = read_set(draft, name, index, item)
            if found is not None:
                sets.append(found)
    if sets:
        rows.write(draft, sets, "interleave")
    else:
        rows.missing(draft)
    for key in common.each(draft, "datasets pretraining_dataset test_datasets"):
        if not key.inside:
            draft.mapped(key, "data.path")
    for key in common.each(draft, "shuffle_merged_datasets"):
        if key.value:
            draft.mapped(key, "data.mix_order=interleave")
    for key in common.each(draft, "sample_packing max_packed_sequence_len"):
        if draft.choices["method"] not in ("sft", "pretrain") and key.value not in OFF:
            draft.silent(key, f"preferences are not packed (method={draft.choices['method']})")
        elif key.name == "max_packed_sequence_len":
            draft.changed(key, "method.packing=true", "an old name of sample_packing")


def _batch(draft: Draft) -> None:
    size, micro = draft.get("batch_size"), draft.get("micro_batch_size", 1)
    for key in common.each(draft, "batch_size"):
        if draft.get("gradient_accumulation_steps"):
            draft.silent(key, "gradient_accumulation_steps is set, and goes first")
        elif isinstance(size, int) and isinstance(micro, int) and micro > 0:
            steps = max(1, size // micro)
            draft.put("train.gradient_accumulation_steps", steps)
            draft.mapped(key, f"train.gradient_accumulation_steps={steps}", "batch_size divided by micro_batch_size")


def _schedule(draft: Draft) -> None:
    ratio = draft.get("cosine_min_lr_ratio")
    if ratio is not None and draft.get("lr_scheduler", "cosine") == "cosine":
        draft.put("train.lr_scheduler_type", "cosine_with_min_lr")
        draft.put("train.lr_scheduler_kwargs", {"min_lr_rate": ratio})
        draft.mapped("lr_scheduler", "train.lr_scheduler_type=cosine_with_min_lr")
        draft.mapped("cosine_min_lr_ratio", f"train.lr_scheduler_kwargs.min_lr_rate={ratio}")
    for key in common.each(draft, "eta_min"):
        draft.silent(key, "no scheduler of Axolotl reads it")
    for key in common.each(draft, "optimizer"):
        if str(key.value).startswith("lion"):
            put(draft, key, "train.optim", "lion_32bit" if key.value == "lion_pytorch" else key.value)
    if draft.get("warmup_steps") is not None:
        for key in common.each(draft, "warmup_ratio"):
            draft.silent(key, "warmup_steps is set, and goes first")
    for key in common.each(draft, "activation_offloading"):
        if key.value not in OFF and not draft.has("method.activation_offloading"):
            draft.changed(key, "train.gradient_checkpointing=true", "activations are computed again, not moved away")
            draft.put("train.gradient_checkpointing", True)
        elif key.value not in OFF:
            draft.put("train.gradient_checkpointing", True)
            draft.changed(key, "train.gradient_checkpointing=true", "activations are computed again, not moved away")
    if draft.get("early_stopping_patience") and "data.eval_share" in draft.settings:
        draft.put("train.load_best_model_at_end", True)
    for key in common.each(draft, "group_by_length"):
        if key.value not in OFF:
            put(draft, key, "train.train_sampling_strategy", "group_by_length")
    for key in common.each(draft, "save_only_model"):
        if key.value:
            draft.changed(key, "", "every checkpoint can be resumed; train.save_total_limit bounds them")


def _tokens(draft: Draft) -> None:
    for key in common.each(draft, "chat_template"):
        common.template(draft, key, _TEMPLATES)
    for key in draft.keys:
        outer = key.name.partition(".")[0]
        if (
            outer in ("special_tokens", "eot_tokens", "added_tokens_overrides")
            and key.value is not None
            and not key.inside
        ):
            draft.changed(key, "", _SPECIAL)
        elif outer == "tokens" and isinstance(key.value, list):
            draft.put("model.new_tokens", key.value)
            draft.mapped(key, "model.new_tokens")
        elif outer == "tokens" and key.value is not None and not key.inside:
            draft.changed(key, "", _SPECIAL)
    for key in common.each(draft, "resize_token_embeddings_to_32x"):
        draft.changed(key, "", "model.new_tokens adds tokens; the matrix is not padded")
    for key in common.each(draft, "train_on_inputs"):
        if key.value in OFF:
            draft.mapped(key, "", "prompts are read, never trained")


def _code(draft: Draft) -> None:
    """Plugins and kernels: those of speed change nothing that is learnt, all others are code."""
    for key in common.each(draft, _SPEED):
        if not key.inside and key.value not in OFF:
            draft.changed(key, "", _LIGER)
    for key in [k for k in draft.keys if k.name.startswith("flex_attn_compile_kwargs.")]:
        draft.changed(key, "", _LIGER)
    for key in common.each(draft, "plugins"):
        named = key.value if isinstance(key.value, list) else [key.value]
        if all(str(each).startswith(_SAFE_PLUGINS) for each in named):
            draft.changed(key, "", _LIGER)
        else:
            draft.dropped(key, "refused: it names Python code to be imported")
    for key in common.each(draft, "dataset_prepared_path dataset_processes"):
        draft.changed(key, "", "tokens are stored once, under a key of everything they depend on")


def _images(draft: Draft) -> None:
    for key in common.each(draft, "processor_type"):
        draft.unsupported.append("it trains on images or sound, and ftcli on text alone")
        draft.dropped(key, "ftcli trains on text alone: the tokenizer of the model is enough")
    for key in common.each(draft, "skip_prepare_dataset remove_unused_columns"):
        if draft.get("processor_type"):
            draft.changed(key, "", "belongs to images; rows of text are tokenised and stored by themselves")
        else:
            draft.changed(key, "", "rows are tokenised and stored by themselves")


def defaults(draft: Draft) -> None:
    """Write out the defaults of the tool that differ from ours."""
    why = "Axolotl's default"
    draft.default("data.max_length_tokens", 512, f"{why} (sequence_len)")
    if draft.choices["method"] not in _SPLITS:
        draft.default("data.overflow", "drop", f"{why} (excess_length_strategy)")
    if not draft.get("num_epochs") and not schedule.by_steps(draft):
        draft.default("train.num_train_epochs", 1.0, why)
    if not draft.get("micro_batch_size"):
        draft.default("train.per_device_train_batch_size", 1, why)
    if not draft.get("gradient_accumulation_steps"):
        draft.default("train.gradient_accumulation_steps", 1, why)
    if not draft.get("lr_scheduler"):
        draft.default("train.lr_scheduler_type", "cosine", why)
    if draft.get("warmup_steps") is None and draft.get("warmup_ratio") is None:
        draft.default("train.warmup_steps", 0.03, f"{why}, at most 100 steps there")
    if not draft.get("optimizer"):
        draft.default("train.optim", "adamw_torch_fused", why)
    if draft.get("gradient_checkpointing") is None and not draft.get("activation_offloading"):
        draft.default("train.gradient_checkpointing", False, why)
    if draft.choices["method"] in ("dpo", "ipo", "kto", "orpo", "simpo"):
        draft.default("method.beta", 0.1, f"{why} (rl_beta)")
    if draft.choices["method"] in ("sft", "pretrain") and not draft.get("sample_packing"):
        draft.default("method.packing", False, f"{why} (sample_packing)")
    if draft.choices["peft"] == "lora" and not draft.get("lora_dropout"):
        draft.default("peft.lora_dropout", 0.0, why)
    common.groups(draft)
