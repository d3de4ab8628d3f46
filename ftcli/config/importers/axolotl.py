"""Axolotl: the keys of its YAML files. Keys of kernels, clouds and research plugins are named, not translated."""

from __future__ import annotations

from ftcli.config.importers import importer as by
from ftcli.config.importers.importer import Importer, choice, none, same

_RL = {name: f"method={name}" for name in ("dpo", "ipo", "kto", "orpo", "simpo", "grpo")}
_ADAPTERS = {"lora": "peft=lora", "qlora": "peft=qlora", "null": "peft=none"}
_TYPES = {"completion": "method=pretrain", "pretrain": "method=pretrain", "alpaca": "method=sft",
          "chat_template": "method=instruct", "sharegpt": "method=instruct"}  # fmt: skip
_LITERAL_TOKENS = "none: the tokens are the tokenizer's own, and rows never rewrite them"
_TRL = ("num_generations max_completion_length temperature top_p top_k min_p use_vllm vllm_mode vllm_server_host "
        "vllm_server_port vllm_server_timeout scale_rewards loss_type epsilon epsilon_high num_iterations "
        "mask_truncated_completions sync_ref_model ref_model_mixup_alpha ref_model_sync_steps log_completions "
        "generation_kwargs importance_sampling_level repetition_penalty delta beta")  # fmt: skip


def _below(group: str, names: str) -> str:
    return " ".join(f"{group}.{name}" for name in names.split())


IMPORTER = Importer(
    title="Axolotl",
    keys=(
        same("base_model", "model.name_or_path", note="model=NAME for those that ftcli list model shows"),
        same("revision_of_model", "model.revision"),
        none(
            "base_model_config base_model_ignore_patterns model_type tokenizer_config tokenizer_type processor_type "
            "model_config overrides_of_model_config tokenizer_use_fast tokenizer_legacy tokenizer_use_mistral_common "
            "is_llama_derived_model is_falcon_derived_model is_mistral_derived_model",
            "none needed: model and tokenizer are those of model.name_or_path",
        ),
        choice("rl", _RL),
        choice("reward_model", {"true": "method=reward"}),
        same("rl_beta dpo_beta", "method.beta", "method=dpo"),
        same("orpo_alpha", "method.beta", "method=orpo"),
        same("cpo_alpha", "method.nll_weight", "method=cpo"),
        same("simpo_gamma", "method.gamma", "method=simpo"),
        same(
            "rpo_alpha",
            "method.nll_weight",
            "method=cpo",
            "of dpo method.loss_type=[sigmoid,sft] with loss_weights=[1,X]",
        ),
        same("kto_desirable_weight", "method.desirable_weight", "method=kto", "derived from the labels unless set"),
        same("kto_undesirable_weight", "method.undesirable_weight", "method=kto", "derived from the labels unless set"),
        same("dpo_label_smoothing", "method.label_smoothing", "method=dpo"),
        same("dpo_use_weighting", "method.use_weighting", "method=dpo"),
        same("precompute_ref_log_probs", "method.precompute_ref_log_probs", "method=dpo"),
        same("center_rewards_coefficient", "method.center_rewards_coefficient", "method=reward"),
        none("trl.reward_funcs", "method.rewards for rules, method.reward_functions for Python functions"),
        none("trl", "method=grpo and its settings, such as method.num_generations"),
        same(_below("trl", _TRL), "method.{}", "method=grpo"),
        none(
            "trl.async_prefetch trl.chat_template_kwargs vllm vllm.gpu_memory_utilization vllm.max_model_len "
            "vllm.serve_module vllm.enforce_eager",
            "method.use_vllm and method.vllm_*: ftcli show method method=grpo",
        ),
        same(
            "datasets.path pretraining_dataset.path",
            "data.path",
            note="several files as one list; sets with shares as data.mix={a: {path: a.jsonl}, …}",
        ),
        choice(
            "datasets.type pretraining_dataset.type",
            _TYPES,
            note="the row format is recognised by its columns, or set with data.format",
        ),
        same("datasets.split pretraining_dataset.split", "data.split"),
        same("datasets.name pretraining_dataset.name", "data.subset"),
        same("datasets.revision", "data.revision"),
        same("datasets.data_files", "data.path", note="a file, a folder or a pattern"),
        none(
            "datasets.field_messages datasets.message_property_mappings datasets.field datasets.field_chosen "
            "datasets.field_rejected datasets.message_field_role datasets.message_field_content datasets.field_human "
            "datasets.field_model datasets.field_system datasets.field_tools datasets.field_thinking "
            "datasets.template_thinking_key",
            "recognised by the columns, or data.columns={our column: theirs}",
        ),
        none(
            "datasets.roles datasets.roles_to_train datasets.train_on_eos datasets.conversation datasets.ds_type "
            "datasets.shards datasets.chat_template",
            "data.roles={their role: user}; assistant turns and their ends "
            "are trained, data.trained_turns=last only the last",
        ),
        none("datasets pretraining_dataset", "data.path=FILE, several as a list, or data.mix for sets with shares"),
        same("test_datasets.path", "data.eval_path"),
        none("test_datasets", "data.eval_path=FILE"),
        none("dataset_exact_deduplication", "ftcli data check names duplicate rows"),
        none(
            "dataset_prepared_path dataset_processes dataset_keep_in_memory skip_prepare_dataset push_dataset_to_hub",
            "ftcli data prepare; a run finds the tokens by itself",
        ),
        choice("shuffle_merged_datasets", {"true": "data.mix_order=interleave", "false": "data.mix_order=concatenate"}),
        same("streaming", "data.streaming"),
        same("val_set_size", "data.eval_share"),
        same(
            "sequence_len max_packed_sequence_len",
            "data.max_length_tokens",
            note="auto derives it from the rows; data.overflow says what happens to longer ones",
        ),
        choice(
            "excess_length_strategy",
            {"drop": "data.overflow=drop", "truncate": "data.overflow=truncate_right", "raise": "data.overflow=error"},
        ),
        none("min_sample_len", "there is none: rows are never dropped for being short"),
        same("sample_packing", "method.packing", "method=sft", "also of held-out rows"),
        none(
            "eval_sample_packing pad_to_sequence_len sample_packing_sequentially curriculum_sampling "
            "sample_packing_eff_est total_num_tokens",
            "none needed: method.packing packs training and held-out rows",
        ),
        none(
            "train_on_inputs",
            "there is none: prompts are read and never trained; plain text (method=pretrain) is whole",
        ),
        choice("adapter", _ADAPTERS),
        same("lora_r", "peft.r", "peft=lora"),
        same("lora_alpha lora_dropout", "peft.{}", "peft=lora"),
        same("lora_fan_in_fan_out", "peft.fan_in_fan_out", "peft=lora"),
        choice("lora_target_linear", {"true": "peft=lora peft.target_modules=all-linear"}, note="the default"),
        same("lora_target_modules", "peft.target_modules", "peft=lora"),
        same("lora_target_parameters", "peft.target_parameters", "peft=lora"),
        same("lora_modules_to_save", "peft.modules_to_save", "peft=lora"),
        same("peft_layers_to_transform", "peft.layers_to_transform", "peft=lora"),
        same("lora_model_dir", "model.name_or_path", note="an adapter's folder is a model: its base is found"),
        choice("peft_use_dora", {"true": "peft=dora", "false": "peft=lora"}),
        choice("peft_use_rslora", {"true": "peft=rslora", "false": "peft=lora"}),
        same("loraplus_lr_ratio", "peft.loraplus_lr_ratio", "peft=loraplus"),
        same("loraplus_lr_embedding", "peft.loraplus_lr_embedding", "peft=loraplus"),
        same("peft_init_lora_weights", "peft.init_lora_weights", "peft=lora"),
        choice(
            "load_in_4bit", {"true": "quantisation=nf4", "false": "quantisation=none"}, note="peft=qlora is LoRA on it"
        ),
        choice("load_in_8bit", {"true": "quantisation=int8", "false": "quantisation=none"}),
        none(
            "gptq gptq_groupsize gptq_model_v1 gptq_disable_exllama model_quantization_config "
            "model_quantization_config_kwargs quantize_moe_experts dsv4_fp4_grouped_mode nvfp4_merge_aware "
            "use_onebitllms fp8 fp8_enable_fsdp_float8_all_gather qat",
            "there is none: quantised checkpoints load as they are; others are quantised with quantisation=NAME",
        ),
        none("bnb_config_kwargs", "quantisation=nf4_double for double quantisation"),
        same("unfrozen_parameters", "peft.modules", "peft=freeze", "named modules, with peft=freeze"),
        choice("full_finetune", {"true": "peft=none"}),
        choice("reinit_weights", {"true": "model.init=random", "false": "model.init=pretrained"}),
        same("micro_batch_size", "train.per_device_train_batch_size"),
        none("batch_size", "train.per_device_train_batch_size times train.gradient_accumulation_steps times processes"),
        same("eval_batch_size", "train.per_device_eval_batch_size"),
        same("num_epochs", "train.num_train_epochs"),
        same("optimizer", "train.optim"),
        same("lr_scheduler", "train.lr_scheduler_type"),
        same("adam_eps", "train.adam_epsilon"),
        none("evals_per_epoch", "train.eval_steps: below 1 a share of the run, so 1/(evals × epochs)"),
        none("saves_per_epoch", "train.save_steps: below 1 a share of the run, so 1/(saves × epochs)"),
        none(
            "cosine_min_lr_ratio cosine_constant_lr_ratio eta_min lr_quadratic_warmup",
            "train.lr_scheduler_kwargs, of "
            "the scheduler in train.lr_scheduler_type (cosine_with_min_lr takes min_lr_rate)",
        ),
        none("embedding_lr embedding_lr_scale lr_groups", by.NOT_HERE),
        same("early_stopping_patience", "run.early_stopping_patience"),
        none(
            "loss_watchdog_threshold loss_watchdog_patience", "none needed: a run stops when its loss is not a number"
        ),
        same("attn_implementation", "model.attn_implementation"),
        choice("flash_attention", {"true": "model.attn_implementation=flash_attention_2"}),
        choice("sdp_attention", {"true": "model.attn_implementation=sdpa"}),
        choice("eager_attention", {"true": "model.attn_implementation=eager"}),
        choice("flex_attention", {"true": "model.attn_implementation=flex_attention"}),
        same("activation_offloading", "method.activation_offloading", "method=sft"),
        choice("bfloat16", {"true": "model.dtype=bfloat16"}, note=by.DERIVED_PRECISION),
        choice("float16", {"true": "model.dtype=float16"}, note=by.DERIVED_PRECISION),
        same("trust_remote_code", "model.trust_remote_code", note="on the command line, as --trust-remote-code"),
        choice("use_wandb", {"true": "run.trackers=wandb"}),
        same("wandb_project", "run.tracking.wandb.project", "run.trackers=wandb"),
        same("wandb_entity", "run.tracking.wandb.entity", "run.trackers=wandb"),
        same("wandb_mode", "run.tracking.wandb.mode", "run.trackers=wandb", "offline unless it is typed or granted"),
        choice("use_mlflow", {"true": "run.trackers=mlflow"}),
        same("mlflow_experiment_name", "run.tracking.mlflow.experiment", "run.trackers=mlflow"),
        same(
            "mlflow_tracking_uri",
            "run.tracking.mlflow.tracking_uri",
            "run.trackers=mlflow",
            "on the command line, or with --allow-endpoint",
        ),
        same("trackio_project_name", "run.tracking.trackio.project", "run.trackers=trackio"),
        same(
            "trackio_space_id",
            "run.tracking.trackio.space_id",
            "run.trackers=trackio",
            "on the command line, or with --push-to-hub",
        ),
        none("wandb_name wandb_run_id trackio_run_name", "run.name, under which trackers show a run"),
        none("wandb_watch wandb_log_model", "there is none: run.trackers=wandb keeps numbers and settings alone"),
        none("hf_use_auth_token", "none: log in with hf auth login"),
        none("auto_resume_from_checkpoints", by.RESUME),
        none("chat_template chat_template_jinja default_system_message", by.OWN_TEMPLATE),
        none(
            "special_tokens special_tokens.pad_token special_tokens.eos_token special_tokens.bos_token "
            "special_tokens.unk_token tokens tokens.pad_token tokens.bos_token tokens.eos_token tokens.unk_token "
            "eot_tokens added_tokens_overrides resize_token_embeddings_to_32x",
            _LITERAL_TOKENS,
        ),
        none("roles message_property_mappings train_on_eos", "data.roles; columns and turn ends are recognised"),
        none("plugins", by.NOT_HERE),
        none(
            "liger_glu_activation liger_rms_norm liger_layer_norm liger_rope liger_fused_linear_cross_entropy "
            "liger_rms_norm_gated liger_cross_entropy cut_cross_entropy use_kernels lora_mlp_kernel lora_qkv_kernel "
            "lora_o_kernel fused_attn_kernel use_scattermoe use_sonicmoe experts_implementation flash_optimum "
            "flash_attn_cross_entropy flash_attn_rms_norm flash_attn_fuse_mlp flash_attn_fuse_qkv xformers_attention "
            "flex_attn_compile_kwargs gemma4_hybrid_attn_impl use_glm_dsa_kernels llama4_linearized_experts tiled_mlp "
            "s2_attention unsloth_lora_mlp unsloth_lora_qkv unsloth_lora_o",
            by.KERNELS,
        ),
        none(
            "fsdp_version dp_shard_size dp_replicate_size use_ray ray_num_workers ddp_bucket_cap_mb ddp",
            by.PASSED_THROUGH,
        ),
        none(
            "tensor_parallel_size context_parallel_size context_parapllel_size sequence_parallel_degree "
            "expert_parallel_size expert_parallel_num_nvl_bytes expert_parallel_token_capacity",
            by.PARALLEL,
        ),
        none("freeze_mm_modules image_size", by.NOT_MULTIMODAL),
        none(
            "ebft diffusion do_causal_lm_eval eval_causal_lm_metrics eval_table_size eval_max_new_tokens",
            by.NOT_HERE + "; ftcli eval and ftcli generate measure and answer",
        ),
        none("num_labels", "none needed: method=reward has one"),
        none(
            "strict debug low_cpu_mem_usage torchdistx_path experimental_skip_move_to_device device_map test_value "
            "local_rank gc_steps",
            "none needed",
        ),
        none(
            "project_name secrets provider gpu gpu_count node_count volumes volumes.name volumes.mount branch "
            "dockerfile_commands memory timeout memory_preprocess timeout_preprocess",
            by.ENVIRONMENT,
        ),
        by.WARMUP_RATIO,
        same(by.TRAINING_ARGUMENTS, "train.{}"),
        *by.REFUSED_FIELDS,
    ),
)
