"""Unsloth: the arguments of `FastLanguageModel.from_pretrained`, of `get_peft_model` and of its command line."""

from __future__ import annotations

from ftcli.config.importers import importer as by
from ftcli.config.importers.importer import Importer, choice, none, same

IMPORTER = Importer(
    title="Unsloth",
    keys=(
        same("model_name", "model.name_or_path", note="model=NAME for those that ftcli list model shows"),
        same("max_seq_length", "data.max_length_tokens", note="auto derives it from the rows"),
        same("dtype", "model.dtype"),
        choice(
            "load_in_4bit", {"true": "quantisation=nf4", "false": "quantisation=none"}, note="peft=qlora is LoRA on it"
        ),
        choice("load_in_8bit", {"true": "quantisation=int8", "false": "quantisation=none"}),
        choice("load_in_16bit", {"true": "quantisation=none"}),
        choice("full_finetuning", {"true": "peft=none", "false": "peft=lora"}),
        same(
            "r lora_alpha lora_dropout target_modules bias modules_to_save layers_to_transform layers_pattern "
            "init_lora_weights loftq_config",
            "peft.{}",
            "peft=lora",
        ),
        choice("use_rslora", {"true": "peft=rslora", "false": "peft=lora"}),
        choice("use_dora", {"true": "peft=dora", "false": "peft=lora"}),
        choice(
            "use_gradient_checkpointing",
            {
                "true": "train.gradient_checkpointing=true",
                "unsloth": "train.gradient_checkpointing=true",
                "false": "train.gradient_checkpointing=false",
            },
        ),
        same("dataset", "data.path"),
        none("dataset_text_field", "data.columns={text: their column}"),
        none("dataset_num_proc", "none needed: tokens are stored once"),
        same("packing", "method.packing", "method=sft"),
        none("chat_template mapping map_eos_token", by.OWN_TEMPLATE),
        none("train_on_responses_only instruction_part response_part", "none needed: only answers are trained"),
        same("embedding_learning_rate", "peft.loraplus_lr_embedding", "peft=loraplus"),
        none(
            "fast_inference gpu_memory_utilization max_lora_rank", "method.use_vllm, of sampling methods (method=grpo)"
        ),
        none("save_method save_model save_path quantization_method save_gguf", by.MERGE),
        none("fix_tokenizer use_exact_model_name device_map rope_scaling token", "none needed"),
        none(
            "finetune_vision_layers finetune_language_layers finetune_attention_modules finetune_mlp_modules",
            by.NOT_MULTIMODAL + "; peft.target_modules names the modules",
        ),
        by.WARMUP_RATIO,
        same(by.TRAINING_ARGUMENTS, "train.{}"),
        *by.REFUSED_FIELDS,
    ),
)
