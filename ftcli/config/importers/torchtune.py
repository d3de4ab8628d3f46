"""torchtune: the keys of its recipes' YAML files. What stands below `model`, `optimizer`, `loss` and `dataset` is given
by its own name; the components themselves are the business of ftcli/config/conversion/tools/torchtune.py."""

from __future__ import annotations

from ftcli.config.importers import importer as by
from ftcli.config.importers.importer import Importer, choice, none, same

_OWN_FILES = "none needed: weights, tokenizer and template are those of model.name_or_path"
_COMPILED = "none needed: which layers are sharded, compiled and computed again is chosen by itself"

IMPORTER = Importer(
    title="torchtune",
    keys=(
        same("lora_rank", "peft.r", "peft=lora"),
        same("lora_alpha lora_dropout", "peft.{}", "peft=lora"),
        same(
            "lora_attn_modules",
            "peft.target_modules",
            "peft=lora",
            "with the projections of apply_lora_to_mlp (gate_proj, up_proj, down_proj); output_proj is o_proj",
        ),
        none("apply_lora_to_mlp apply_lora_to_output", "peft.target_modules names these projections with the others"),
        choice("use_dora", {"true": "peft=dora", "false": "peft=lora"}),
        choice("quantize_base", {"true": "quantisation=nf4", "false": "quantisation=none"}),
        same("optimizer.lr", "train.learning_rate"),
        same("optimizer.weight_decay", "train.weight_decay"),
        none(
            "optimizer.fused optimizer_in_bwd", "none needed: the optimiser is train.optim, and fused where that helps"
        ),
        none("optimizer", "train.optim and train.learning_rate"),
        same("lr_scheduler.num_warmup_steps", "train.warmup_steps"),
        none("lr_scheduler", "train.lr_scheduler_type"),
        same("epochs", "train.num_train_epochs"),
        none("max_steps_per_epoch", "train.max_steps, of the whole run"),
        same("batch_size", "train.per_device_train_batch_size"),
        same("gradient_accumulation_steps", "train.{}"),
        same("clip_grad_norm", "train.max_grad_norm"),
        same("log_every_n_steps", "train.logging_steps"),
        same("enable_activation_checkpointing", "train.gradient_checkpointing"),
        none(
            "enable_activation_offloading",
            "train.gradient_checkpointing=true: activations are computed again, not moved away",
        ),
        same("compile", "train.torch_compile"),
        same("packed", "method.packing", "method=sft"),
        same("max_seq_len", "data.max_length_tokens", note="auto derives it from the rows"),
        same("dataset.source datasets.source", "data.path"),
        same("dataset.split datasets.split", "data.split"),
        same("dataset.subset datasets.subset", "data.subset"),
        none("dataset datasets dataset_val", "data.path=FILE, several as a list, or data.mix for sets with shares"),
        none("train_on_input", "there is none: prompts are read and never trained"),
        none("shuffle", "none needed: rows are drawn in a new order each epoch, by seed"),
        none("kd_ratio kd_loss", "method=distillation trains on the teacher's answers alone: method.beta"),
        none("teacher_checkpointer teacher_model", "method=distillation, with method.teacher_model"),
        none("checkpointer checkpoint_dir", "model.name_or_path, a hub id or a folder of a Hugging Face model"),
        none(
            "ref_checkpointer ref_policy_checkpointer",
            "none needed: the reference is the model that the run starts from",
        ),
        none("policy_model reward_and_value_model", _OWN_FILES),
        none("value_checkpointer reward_checkpointer", "method.reward_model=FOLDER, with method=ppo"),
        none("tokenizer", _OWN_FILES),
        none(
            "profiler metric_logger log_peak_memory_stats log_level",
            "none needed: metrics.jsonl holds every value, of time and memory too",
        ),
        none("save_adapter_weights_only", "none needed: a run with an adapter saves the adapter"),
        none(
            "custom_sharded_layers fsdp_cpu_offload fsdp memory_efficient_fsdp_wrap fsdp_reshard_after_forward ac_mode "
            "ac_option",
            _COMPILED,
        ),
        none("tensor_parallel_plan tensor_parallel_dim parallelize_plan", by.PARALLEL),
        none("quantizer", "there is none: quantisation=nf4 quantises the base while it loads"),
        none("collate_fn", "none needed: rows are padded or packed"),
        none("image_size decoder_trainable encoder_trainable fusion_trainable", by.NOT_MULTIMODAL),
        none("num_output_chunks ignore_index", "none needed: TRL's loss is already fused"),
        same("ppo_epochs", "method.num_ppo_epochs", "method=ppo"),
        same("whiten_rewards gamma", "method.{}", "method=ppo"),
        same("lmbda", "method.lam", "method=ppo"),
        same("kl_coeff", "method.kl_coef", "method=ppo"),
        same("max_generated_tokens", "method.max_new_tokens", "method=ppo"),
        same("temperature", "method.temperature", "method=ppo"),
        none("num_steps ppo_batch_size forward_batch_size", "method.generation_batch_size, and train.max_steps"),
        none("min_response_length penalise_no_eos reward_penalty stop_token_ids", "method.missing_eos_penalty"),
        none("device", "none needed: hardware=auto takes the GPU there is"),
        same("seed", "seed"),
        same("output_dir", "run.dir", note="run.name puts it at runs/NAME/TIME"),
        none("resume_from_checkpoint", by.RESUME),
    ),
)
