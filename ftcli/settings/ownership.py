"""Which of our settings owns a library field, which fields are refused, and which need a flag on the command line.

Every setting has one owner: a field that ftcli sets under its own name is refused under the library's name, and the
error names the owner.
"""

from __future__ import annotations

from collections.abc import Mapping

# Library field: the setting of ours (or the flag) that owns it.
OWNERS: Mapping[str, str] = {
    "train.seed": "seed",
    "train.data_seed": "seed",
    "train.output_dir": "run.dir",
    "train.run_name": "run.name",
    "train.resume_from_checkpoint": "--resume RUN",
    "train.use_cpu": "hardware=cpu",
    "train.disable_tqdm": "the progress display of ftcli, which prints plain lines outside a terminal",
    "train.do_train": "ftcli train",
    "train.do_eval": "data.eval_path",
    "train.do_predict": "ftcli generate",
    "train.local_rank": "hardware.num_processes",
    "train.logging_nan_inf_filter": "ftcli, which stops a run whose loss is not a number",
    "train.save_only_model": "ftcli, whose checkpoints can always be resumed",
    "train.ignore_data_skip": "ftcli, which always resumes at the right row",
    "train.auto_find_batch_size": "ftcli plan, which estimates memory (the search restarts on trained weights)",
    "train.remove_unused_columns": "ftcli, which passes on only the columns in use",
    "train.restore_callback_states_from_checkpoint": "ftcli, which always restores them",
    "method.max_length": "data.max_length_tokens",
    "method.truncation_mode": "data.overflow",
    "method.dataset_text_field": "data.columns",
    "method.dataset_kwargs": "data.*",
    "method.dataset_num_proc": "data.*",
    "method.shuffle_dataset": "seed",
    "method.model_init_kwargs": "model.*",
    "method.trust_remote_code": "model.trust_remote_code",
    "method.eval_packing": "method.packing, which held-out rows use too",
    "method.pad_token": "the tokenizer",
    "method.eos_token": "the tokenizer",
    "method.completion_only_loss": "method, which trains only the answers",
    "method.assistant_only_loss": "method, which trains only the answers",
    "peft.task_type": "method",
    "peft.peft_type": "peft=NAME",
    "peft.base_model_name_or_path": "model.name_or_path",
    "peft.revision": "model.revision",
    "peft.inference_mode": "ftcli train",
    "peft.peft_version": "the installed PEFT",
}

# Never set from anywhere, with the reason.
REFUSED: Mapping[str, str] = {
    "train.hub_token": "the token would be saved in the run directory; log in with `hf auth login` instead",
    "train.dataloader_persistent_workers": "workers that outlive an epoch draw different rows after a resume",
    "train.use_liger_kernel": "deprecated by TRL, whose loss is already fused",
    "peft.auto_mapping": "PEFT imports the module it names",
    "peft.megatron_config": "PEFT imports the module that megatron_core names",
    "peft.megatron_core": "PEFT imports the module it names",
}

# Settings that run code, or send or write things elsewhere: the flag that grants each on the command line.
GRANTED_BY: Mapping[str, str] = {
    "model.trust_remote_code": "--trust-remote-code",
    "method.reward_functions": "--trust-reward-code",
    "train.push_to_hub": "--push-to-hub",
    "train.hub_model_id": "--push-to-hub",
    "train.hub_strategy": "--push-to-hub",
    "train.hub_revision": "--push-to-hub",
    "train.hub_private_repo": "--push-to-hub",
    "train.hub_always_push": "--push-to-hub",
    "train.trackio_space_id": "--push-to-hub",
    "train.trackio_bucket_id": "--push-to-hub",
    "train.trackio_static_space_id": "--push-to-hub",
}

REMOTE_CODE = "--trust-remote-code"
"""The flag that lets a model or an attention kernel run the code that it ships."""
REWARD_CODE = "--trust-reward-code"
"""The flag that lets Python code of the user's own give rewards."""
ENDPOINT = "--allow-endpoint"
"""The flag that allows an endpoint named in a file: it is sent rows, and the key in a variable that the file names."""

# Attention kernels of the installed libraries; any other name is a hub repository whose code would run.
ATTENTION = ("auto", "sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3")

# Library fields that hold a path when they hold a string: the rules of a recipe's paths apply.
LIBRARY_PATHS = frozenset(
    {"train.deepspeed", "train.fsdp_config", "train.accelerator_config", "method.chat_template_path"}
)

# Integrations that train.report_to can name, and the package that each needs.
REPORTERS: Mapping[str, str] = {
    "azure_ml": "azureml", "clearml": "clearml", "codecarbon": "codecarbon", "comet_ml": "comet_ml",
    "dagshub": "dagshub", "dvclive": "dvclive", "flyte": "flytekit", "kubeflow": "kubeflow", "mlflow": "mlflow",
    "neptune": "neptune", "swanlab": "swanlab", "tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb",
}  # fmt: skip
