"""ms-swift: the arguments of `swift pt`, `swift sft` and `swift rlhf`."""

from __future__ import annotations

from ftcli.config.importers import importer as by
from ftcli.config.importers.importer import Importer, choice, none, same

_RLHF = {**{name: f"method={name}" for name in ("dpo", "kto", "cpo", "simpo", "orpo", "ppo", "grpo")},
         "rm": "method=reward", "gkd": "method=distillation"}  # fmt: skip
_TUNERS = {"full": "peft=none", **{name: f"peft={name}" for name in ("lora", "adalora", "ia3", "vera")},
           "boft": "peft=other peft.type=BOFT", "llamapro": "peft=freeze"}  # fmt: skip

IMPORTER = Importer(
    title="ms-swift",
    keys=(
        same("model_id_or_path", "model.name_or_path", note="model=NAME for those that ftcli list model shows"),
        same(
            "adapters resume_from_adapter",
            "model.name_or_path",
            note="an adapter's folder is a model: its base is found",
        ),
        same("model_revision", "model.revision"),
        none(
            "model_type task_type use_hf template system",
            "none needed: model and template are those of model.name_or_path, and a system turn is part of its row",
        ),
        choice("rlhf_type", _RLHF),
        choice("train_type tuner_type sft_type", _TUNERS),
        same("teacher_model", "method.teacher_model", "method=distillation"),
        none("ref_model", "none: the reference is the model that the run starts from"),
        same("reward_model", "method.reward_model", "method=grpo"),
        none("reward_funcs external_plugins", "method.rewards for rules, method.reward_functions for Python functions"),
        same("lora_rank", "peft.r", "peft=lora"),
        same("lora_alpha lora_dropout target_modules modules_to_save init_lora_weights", "peft.{}", "peft=lora"),
        same("lora_bias", "peft.bias", "peft=lora"),
        choice("use_dora", {"true": "peft=dora", "false": "peft=lora"}),
        choice("use_rslora", {"true": "peft=rslora", "false": "peft=lora"}),
        same("lorap_lr_ratio", "peft.loraplus_lr_ratio", "peft=loraplus"),
        choice("quant_bits", {"4": "quantisation=nf4", "8": "quantisation=int8"}, note="peft=qlora is LoRA on 4 bits"),
        choice("quant_method", {"bnb": "quantisation=nf4"}, note="quantised checkpoints load as they are"),
        choice("bnb_4bit_quant_type", {"nf4": "quantisation=nf4", "fp4": "quantisation=fp4"}),
        choice("bnb_4bit_use_double_quant", {"true": "quantisation=nf4_double", "false": "quantisation=nf4"}),
        same("bnb_4bit_compute_dtype", "quantisation.compute_dtype", "peft=qlora"),
        same("dataset", "data.path", note="a file, folder, URL or hub set"),
        same("val_dataset", "data.eval_path"),
        same("split_dataset_ratio", "data.eval_share"),
        same("max_length", "data.max_length_tokens", note="auto derives it from the rows"),
        choice(
            "truncation_strategy",
            {
                "delete": "data.overflow=drop",
                "left": "data.overflow=truncate_left",
                "right": "data.overflow=truncate_right",
                "split": "data.overflow=split",
            },
        ),
        same("streaming", "data.streaming"),
        same("shuffle_buffer_size", "data.shuffle_buffer_rows"),
        none("interleave_prob", "data.mix.NAME.share_of_mix of each set"),
        same("columns", "data.columns", note="ours: theirs, the other way round"),
        none(
            "dataset_num_proc load_from_cache_file lazy_tokenize dataset_shuffle stopping_strategy strict",
            "none needed: tokens are stored once; data.max_bad_share says how many rows may be unusable",
        ),
        same("packing", "method.packing", "method=sft"),
        same("torch_dtype", "model.dtype"),
        same("attn_impl", "model.attn_implementation"),
        choice("loss_scale", {"default": "data.trained_turns=all", "last_round": "data.trained_turns=last"}),
        same("beta label_smoothing", "method.{}", "method=dpo"),
        same("simpo_gamma", "method.gamma", "method=simpo"),
        same("cpo_alpha", "method.nll_weight", "method=cpo"),
        none("rpo_alpha", "method.loss_type=[sigmoid,sft] with method.loss_weights=[1,X]"),
        same("desirable_weight undesirable_weight", "method.{}", "method=kto", "derived from the labels unless set"),
        same("center_rewards_coefficient", "method.{}", "method=reward"),
        same(
            "num_generations max_completion_length temperature top_p top_k repetition_penalty use_vllm vllm_mode "
            "vllm_gpu_memory_utilization vllm_tensor_parallel_size num_iterations epsilon epsilon_high "
            "delta scale_rewards "
            "log_completions",
            "method.{}",
            "method=grpo",
        ),
        none("lmbda sft_alpha seq_kd", "none needed: method=distillation samples from the student, as lmbda 1"),
        none("merge_lora", by.MERGE),
        same(
            "freeze_parameters_ratio trainable_parameters",
            "peft.modules",
            "peft=freeze",
            "named modules or peft.num_layers",
        ),
        none("freeze_vit freeze_aligner freeze_llm max_pixels", by.NOT_MULTIMODAL),
        none(
            "num_labels use_logits_to_keep add_version create_checkpoint_symlink acc_strategy padding_free",
            "none needed",
        ),
        none("sequence_parallel_size", by.PARALLEL),
        by.WARMUP_RATIO,
        same(by.TRAINING_ARGUMENTS, "train.{}"),
        *by.REFUSED_FIELDS,
    ),
)
