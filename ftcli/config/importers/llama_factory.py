"""LLaMA-Factory: the keys of its YAML files and of `llamafactory-cli train`, version 0.9 and the 1.0 previews."""

from __future__ import annotations

from ftcli.config.importers import importer as by
from ftcli.config.importers.importer import Importer, choice, none, same

_METHODS = {"pt": "method=pretrain", "sft": "method=sft", "dpo": "method=dpo", "kto": "method=kto",
            "rm": "method=reward", "ppo": "method=ppo"}  # fmt: skip
_TUNERS = {"full": "peft=none", "lora": "peft=lora", "freeze": "peft=freeze", "oft": "peft=oft"}
_LOSSES = {"sigmoid": "method=dpo method.loss_type=sigmoid", "hinge": "method=dpo method.loss_type=hinge",
           "ipo": "method=ipo", "orpo": "method=orpo", "simpo": "method=simpo",
           "kto_pair": "method=kto"}  # fmt: skip
_MEGATRON = "there is none: Megatron is not used here; several GPUs are hardware=multi_gpu, fsdp, zero2 or zero3"

IMPORTER = Importer(
    title="LLaMA-Factory",
    keys=(
        same("model_name_or_path", "model.name_or_path", note="model=NAME for those that ftcli list model shows"),
        same("adapter_name_or_path", "model.name_or_path", note="an adapter's folder is a model: its base is found"),
        choice("stage", _METHODS),
        choice("finetuning_type", _TUNERS),
        choice("use_dora", {"true": "peft=dora", "false": "peft=lora"}),
        choice("use_rslora", {"true": "peft=rslora", "false": "peft=lora"}),
        choice("pissa_init", {"true": "peft=pissa", "false": "peft=lora"}),
        same("loraplus_lr_ratio", "peft.loraplus_lr_ratio", "peft=loraplus"),
        same("loraplus_lr_embedding", "peft.loraplus_lr_embedding", "peft=loraplus"),
        same("lora_rank", "peft.r", "peft=lora"),
        same("lora_alpha lora_dropout", "peft.{}", "peft=lora"),
        choice(
            "lora_target",
            {"all": "peft=lora peft.target_modules=all-linear"},
            "peft.target_modules",
            note="all-linear is the default",
        ),
        same("additional_target", "peft.modules_to_save", "peft=lora"),
        same("freeze_trainable_layers", "peft.num_layers", "peft=freeze"),
        same("freeze_trainable_modules", "peft.modules", "peft=freeze"),
        same("oft_rank", "peft.r", "peft=oft"),
        same("oft_block_size", "peft.{}", "peft=oft"),
        choice("oft_target", {"all": "peft=oft peft.target_modules=all-linear"}, "peft.target_modules"),
        choice(
            "quantization_bit",
            {"4": "quantisation=nf4", "8": "quantisation=int8"},
            note="peft=qlora is LoRA on a base in 4 bits",
        ),
        choice("quantization_type", {"nf4": "quantisation=nf4", "fp4": "quantisation=fp4"}),
        choice("double_quantization", {"true": "quantisation=nf4_double", "false": "quantisation=nf4"}),
        none(
            "quantization_method export_quantization_bit export_quantization_dataset quant_config",
            by.NOT_HERE
            + "; a base is quantised while loading with quantisation=NAME, and quantised checkpoints load as they are",
        ),
        same("dataset train_dataset", "data.path", note="a file, folder, URL or hub set; no registry file is needed"),
        none("dataset_dir", "none needed: data.path names the files themselves"),
        same("eval_dataset", "data.eval_path"),
        same("val_size", "data.eval_share"),
        choice(
            "mix_strategy",
            {
                "concat": "data.mix_order=concatenate",
                "interleave_under": "data.mix_order=interleave",
                "interleave_over": "data.mix_order=interleave",
            },
        ),
        none("interleave_probs", "data.mix.NAME.share_of_mix of each set"),
        same("streaming", "data.streaming"),
        same("buffer_size", "data.shuffle_buffer_rows"),
        none("tokenized_path", "ftcli data prepare; a run finds the tokens by itself"),
        choice("mask_history", {"true": "data.trained_turns=last", "false": "data.trained_turns=all"}),
        none(
            "train_on_prompt",
            "there is none: prompts are read and never trained; plain text (method=pretrain) is whole",
        ),
        same(
            "cutoff_len",
            "data.max_length_tokens",
            note="auto derives it from the rows; data.overflow says what happens to longer ones",
        ),
        same("max_samples", "data.max_rows"),
        same("packing neat_packing use_packed_sequences", "method.packing", "method=sft"),
        choice("pref_loss", _LOSSES),
        same("pref_beta", "method.beta", "method=dpo"),
        same("dpo_label_smoothing", "method.label_smoothing", "method=dpo"),
        same("simpo_gamma", "method.gamma", "method=simpo"),
        none(
            "pref_ftx",
            "method.loss_type=[sigmoid,sft] with method.loss_weights=[1,X]; of CPO and SimPO method.nll_weight",
        ),
        same("kto_chosen_weight", "method.desirable_weight", "method=kto", "derived from the labels unless set"),
        same("kto_rejected_weight", "method.undesirable_weight", "method=kto", "derived from the labels unless set"),
        same("reward_model", "method.reward_model", "method=ppo"),
        none(
            "reward_model_adapters reward_model_type ref_model_adapters ref_model_quantization_bit "
            "reward_model_quantization_bit",
            "none needed: the folder of a run is a model, with or without an adapter",
        ),
        none("ref_model", "none: the reference is the model that the run starts from"),
        same("ppo_epochs", "method.num_ppo_epochs", "method=ppo"),
        same("ppo_target", "method.kl_target", "method=ppo"),
        same("ppo_whiten_rewards", "method.whiten_rewards", "method=ppo"),
        same("ppo_buffer_size", "method.generation_batch_size", "method=ppo"),
        choice(
            "flash_attn",
            {
                "fa2": "model.attn_implementation=flash_attention_2",
                "sdpa": "model.attn_implementation=sdpa",
                "auto": "model.attn_implementation=auto",
                "disabled": "model.attn_implementation=eager",
            },
            "model.attn_implementation",
        ),
        same("model_revision", "model.revision"),
        same("infer_dtype", "model.dtype"),
        choice("pure_bf16", {"true": "model.dtype=bfloat16"}, note=by.DERIVED_PRECISION),
        choice(
            "disable_gradient_checkpointing",
            {"true": "train.gradient_checkpointing=false", "false": "train.gradient_checkpointing=true"},
        ),
        none("bf16_full_eval", "none needed: held-out rows are measured in the type in which the model trains"),
        same("batch_size micro_batch_size", "train.per_device_train_batch_size"),
        none(
            "global_batch_size",
            "train.per_device_train_batch_size times train.gradient_accumulation_steps times processes",
        ),
        none("template", by.OWN_TEMPLATE),
        none(
            "enable_thinking default_system tool_format train_from_scratch",
            "none: what the rows and the model's own chat template say; model.init=random starts from fresh weights",
        ),
        none(
            "preprocessing_num_workers preprocessing_batch_size overwrite_cache cache_dir data_shared_file_system",
            "none needed: tokens are stored once, under a key of everything they depend on",
        ),
        none("plot_loss", "none needed: ftcli report RUN; metrics.jsonl holds every value"),
        same("trust_remote_code", "model.trust_remote_code", note="on the command line, as --trust-remote-code"),
        none(
            "export_dir export_size export_device export_legacy_format export_hf_on_finish export_hub_model_id",
            by.MERGE,
        ),
        none(
            "infer_backend sample_backend vllm_enforce_eager vllm_maxlen", "none needed: ftcli chat and ftcli generate"
        ),
        none(
            "max_new_tokens temperature top_p top_k",
            "flags of ftcli chat and ftcli generate; of sampling methods "
            "method.max_completion_length, method.temperature, method.top_p",
        ),
        none(
            "image_max_pixels video_max_pixels image_min_pixels video_fps freeze_vision_tower "
            "freeze_multi_modal_projector freeze_language_model media_dir",
            by.NOT_MULTIMODAL,
        ),
        none(
            "use_badam use_galore use_apollo apollo_layerwise apollo_target apollo_rank apollo_scale apollo_scale_type "
            "galore_layerwise galore_target galore_rank galore_scale use_adam_mini use_muon optim_config",
            "there is none: an optimiser of transformers is chosen with train.optim",
        ),
        none(
            "use_asft_loss asft_alpha use_eaft_loss use_dft_loss eaft_alpha mixture_of_depths use_llama_pro",
            by.NOT_HERE,
        ),
        none(
            "use_unsloth use_unsloth_gc kernel_config use_v1_kernels shift_attn rope_scaling use_kt kt_config "
            "kt_cpu_activation "
            "kt_weight_path kt_non_expert_weight_path upcast_layernorm",
            by.KERNELS,
        ),
        none(
            "pipeline_model_parallel_size use_distributed_optimizer overlap_param_gather overlap_grad_reduce "
            "bias_activation_fusion apply_rope_fusion moe_grouped_gemm moe_token_dispatcher_type recompute_granularity",
            _MEGATRON,
        ),
        none(
            "tensor_model_parallel_size expert_model_parallel_size context_parallel_size sequence_parallel cp_mode "
            "cp_size",
            by.PARALLEL,
        ),
        none("dist_config init_config ray_run_name ray_num_workers", by.PASSED_THROUGH),
        none(
            "peft_config", "peft=lora and its settings: peft.r, peft.lora_alpha, peft.lora_dropout, peft.target_modules"
        ),
        none(
            "model_class batching_strategy resize_vocab move_vocab predict_with_generate compute_accuracy "
            "include_tokens_per_second print_param_status",
            "none needed",
        ),
        none("use_swanlab swanlab_project swanlab_run_name", "train.report_to=swanlab"),
        same("mixed_precision", "train.bf16", note=by.DERIVED_PRECISION),
        none(
            "compute_environment distributed_type num_machines num_processes machine_rank rdzv_backend same_network "
            "main_training_function main_process_ip main_process_port downcast_bf16 tpu_env tpu_use_cluster "
            "tpu_use_sudo "
            "use_cpu",
            by.ENVIRONMENT,
        ),
        by.WARMUP_RATIO,
        same(by.TRAINING_ARGUMENTS, "train.{}"),
        *by.REFUSED_FIELDS,
    ),
)
