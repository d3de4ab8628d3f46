"""TRL, and the alignment handbook on top of it: the arguments of `trl sft` and its kin, and of their YAML files."""

from __future__ import annotations

from ftcli.config.importers import importer as by
from ftcli.config.importers.importer import Importer, choice, none, same

IMPORTER = Importer(
    title="TRL and the alignment handbook",
    keys=(
        same("model_name_or_path", "model.name_or_path", note="model=NAME for those that ftcli list model shows"),
        same("model_revision", "model.revision"),
        same("torch_dtype dtype", "model.dtype"),
        same("attn_implementation", "model.attn_implementation"),
        same("trust_remote_code", "model.trust_remote_code", note="on the command line, as --trust-remote-code"),
        same("dataset_name", "data.path"),
        same("dataset_config", "data.subset"),
        same("dataset_train_split", "data.split"),
        none("dataset_test_split", "data.eval_path, of a hub set with a split of its own data.mix and data.eval_share"),
        same("dataset_streaming streaming", "data.streaming"),
        same("dataset_mixture.datasets.id", "data.path", note="several sets as data.mix={a: {path: …}, …}"),
        same("dataset_mixture.datasets.config", "data.subset", note="of a mix data.mix.NAME.subset"),
        same("dataset_mixture.datasets.split", "data.split", note="of a mix data.mix.NAME.split"),
        none("dataset_mixture.datasets.columns", "recognised, or data.mix.NAME.columns={our column: theirs}"),
        none("dataset_mixture.datasets.weight", "data.mix.NAME.share_of_set"),
        none("dataset_mixture.test_split_size", "data.eval_share, a share of the rows"),
        none("dataset_mixture.seed", "seed"),
        none("dataset_mixture dataset_mixture.datasets", "data.mix={a: {path: …, share_of_mix: 0.5}, …}"),
        none(
            "dataset_num_proc dataset_kwargs dataset_kwargs.add_special_tokens dataset_kwargs.append_concat_token "
            "dataset_batch_size",
            "none needed: tokens are stored once, with the special tokens of the template",
        ),
        none("dataset_text_field", "data.columns={text: their column}"),
        same("max_length max_seq_length", "data.max_length_tokens", note="auto derives it from the rows"),
        none(
            "max_prompt_length", "there is none: data.max_length_tokens bounds whole rows, and data.overflow says how"
        ),
        same(
            "max_completion_length num_generations temperature top_p top_k min_p num_iterations epsilon epsilon_high "
            "delta scale_rewards mask_truncated_completions use_vllm vllm_mode vllm_server_host vllm_server_port "
            "vllm_gpu_memory_utilization log_completions importance_sampling_level repetition_penalty",
            "method.{}",
            "method=grpo",
        ),
        none("reward_funcs reward_weights", "method.rewards for rules, method.reward_functions for Python functions"),
        same("reward_model_path reward_model_name_or_path", "method.reward_model", "method=grpo"),
        same("teacher_model_name_or_path", "method.teacher_model", "method=distillation"),
        same("packing packing_strategy", "method.{}", "method=sft"),
        none("padding_free", "none needed: method.packing wastes no padding, and keeps rows apart"),
        none("eval_packing", "none needed: method.packing packs held-out rows too"),
        none(
            "completion_only_loss assistant_only_loss",
            "none needed: only answers are trained, and all of plain text; TRL trains messages whole unless told",
        ),
        same("chat_template_path", "model.chat_template", note="a name or a .jinja file; the model is saved with it"),
        none("chat_template", by.OWN_TEMPLATE),
        same(
            "beta loss_type loss_weights label_smoothing precompute_ref_log_probs f_divergence_type sync_ref_model "
            "use_weighting ld_alpha",
            "method.{}",
            "method=dpo",
        ),
        same(
            "rpo_alpha",
            "method.nll_weight",
            "method=cpo",
            "of dpo method.loss_type=[sigmoid,sft] with loss_weights=[1,X]",
        ),
        same("cpo_alpha", "method.nll_weight", "method=cpo"),
        same("simpo_gamma", "method.gamma", "method=simpo"),
        same("desirable_weight undesirable_weight", "method.{}", "method=kto", "derived from the labels unless set"),
        same("center_rewards_coefficient", "method.{}", "method=reward"),
        same(
            "kl_coef num_ppo_epochs cliprange cliprange_value vf_coef gamma lam whiten_rewards missing_eos_penalty "
            "num_mini_batches",
            "method.{}",
            "method=ppo",
        ),
        choice("use_peft", {"true": "peft=lora", "false": "peft=none"}),
        same("lora_r", "peft.r", "peft=lora"),
        same("lora_alpha lora_dropout", "peft.{}", "peft=lora"),
        same("lora_target_modules", "peft.target_modules", "peft=lora"),
        same("lora_modules_to_save", "peft.modules_to_save", "peft=lora"),
        none("lora_task_type", "none needed: the method says it"),
        choice("use_rslora", {"true": "peft=rslora", "false": "peft=lora"}),
        choice("use_dora", {"true": "peft=dora", "false": "peft=lora"}),
        choice(
            "load_in_4bit", {"true": "quantisation=nf4", "false": "quantisation=none"}, note="peft=qlora is LoRA on it"
        ),
        choice("load_in_8bit", {"true": "quantisation=int8", "false": "quantisation=none"}),
        choice("bnb_4bit_quant_type", {"nf4": "quantisation=nf4", "fp4": "quantisation=fp4"}),
        choice("use_bnb_nested_quant", {"true": "quantisation=nf4_double", "false": "quantisation=nf4"}),
        none("hub_token", "none: it would be saved in the run; log in with hf auth login"),
        same("hub_model_revision", "train.hub_revision", note="on the command line, with --push-to-hub"),
        none("logging_dir", "none needed: metrics.jsonl in the run directory"),
        none("gpu_ids debug enable_cpu_affinity deepspeed_config", by.PASSED_THROUGH),
        none("parallelism_config", by.PARALLEL),
        none(
            "compute_environment distributed_type num_machines num_processes machine_rank mixed_precision rdzv_backend "
            "same_network main_training_function downcast_bf16 tpu_env tpu_use_cluster tpu_use_sudo use_cpu",
            by.ENVIRONMENT,
        ),
        by.WARMUP_RATIO,
        same(by.TRAINING_ARGUMENTS, "train.{}"),
        *by.REFUSED_FIELDS,
    ),
)
