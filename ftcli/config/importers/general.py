"""Names that belong to no tool in particular: what people type before they have read anything, and hosted APIs."""

from __future__ import annotations

from ftcli.config.importers import importer as by
from ftcli.config.importers.importer import Importer, choice, none, same

IMPORTER = Importer(
    title="In general",
    keys=(
        same("lr", "train.learning_rate"),
        same("epochs n_epochs num_epochs epoch", "train.num_train_epochs"),
        same("steps num_steps max_iters iterations iters", "train.max_steps"),
        same("batch_size train_batch_size bs batch", "train.per_device_train_batch_size"),
        same("grad_accum accumulation_steps gradient_accumulation", "train.gradient_accumulation_steps"),
        same("warmup", "train.warmup_steps", note="below 1 it is a share of all steps"),
        same("optimizer optimiser", "train.optim"),
        same("scheduler lr_scheduler lr_schedule", "train.lr_scheduler_type"),
        same("wd", "train.weight_decay"),
        same("grad_clip gradient_clipping max_norm", "train.max_grad_norm"),
        none("learning_rate_multiplier", "train.learning_rate, the rate itself; the plan shows the usual one"),
        same("base_model model_name model_id model_path pretrained checkpoint", "model.name_or_path"),
        same(
            "data_path dataset dataset_path train_file training_file train_data train_dataset train_path file files",
            "data.path",
        ),
        same(
            "eval_file eval_data validation_file validation_data val_file val_data val_path test_file eval_dataset",
            "data.eval_path",
        ),
        same("val_split validation_split eval_split test_size val_ratio test_split", "data.eval_share"),
        same(
            "max_length max_len max_tokens seq_len seq_length sequence_length context_length block_size max_seq_len",
            "data.max_length_tokens",
            note="auto derives it from the rows",
        ),
        same("max_examples num_samples limit", "data.max_rows"),
        same("rank lora_rank lora_r", "peft.r", "peft=lora"),
        same("alpha", "peft.lora_alpha", "peft=lora"),
        same("dropout", "peft.lora_dropout", "peft=lora"),
        choice("lora", {"true": "peft=lora", "false": "peft=none"}),
        choice("qlora", {"true": "peft=qlora"}),
        choice("bits", {"4": "quantisation=nf4", "8": "quantisation=int8"}),
        choice(
            "quantization quantize quant",
            {
                "4bit": "quantisation=nf4",
                "8bit": "quantisation=int8",
                "4": "quantisation=nf4",
                "8": "quantisation=int8",
                "nf4": "quantisation=nf4",
                "int8": "quantisation=int8",
                "none": "quantisation=none",
            },
            note="quantisation=NAME",
        ),
        choice(
            "precision",
            {"bf16": "train.bf16=true", "fp16": "train.fp16=true", "fp32": "model.dtype=float32"},
            "model.dtype",
            note=by.DERIVED_PRECISION,
        ),
        choice("device", {"cpu": "hardware=cpu", "cuda": "hardware=gpu", "gpu": "hardware=gpu"}),
        same("gpus num_gpus n_gpu n_gpus world_size nproc_per_node", "hardware.num_processes", "hardware=multi_gpu"),
        same("output out output_path save_dir save_path out_dir", "run.dir"),
        same("name experiment experiment_name suffix", "run.name"),
        choice(
            "algorithm trainer task objective",
            {
                name: f"method={name}"
                for name in (
                    "sft",
                    "dpo",
                    "kto",
                    "orpo",
                    "ppo",
                    "grpo",
                    "simpo",
                    "cpo",
                    "ipo",
                    "rloo",
                    "reward",
                    "pretrain",
                    "instruct",
                )
            },
        ),
        same("patience", "run.early_stopping_patience"),
        choice("wandb", {"true": "run.trackers=wandb"}),
        same("random_seed manual_seed", "seed"),
        same("config config_file", "recipe", note="a recipe of ftcli"),
        none("resume checkpoint_dir", by.RESUME),
    ),
)
