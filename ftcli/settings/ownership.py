"""Tables of who owns a setting, what a recipe may not touch, and the limits that the libraries leave unchecked.

One owner a setting: what ftcli owns under its own name is refused under the library's, with the owner named.
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
    "train.disable_tqdm": "the progress display of ftcli, which is plain lines when not a terminal",
    "train.do_train": "ftcli train",
    "train.do_eval": "data.eval_path",
    "train.do_predict": "ftcli generate",
    "train.local_rank": "hardware.num_processes",
    "train.logging_nan_inf_filter": "ftcli, which stops a run whose loss is not a number",
    "train.save_only_model": "ftcli, whose checkpoints are always whole enough to resume",
    "train.ignore_data_skip": "ftcli, whose resumes always go on at the right row",
    "train.auto_find_batch_size": "ftcli plan, which estimates memory (the search restarts on trained weights)",
    "train.remove_unused_columns": "ftcli, which hands over only the columns that are used",
    "train.restore_callback_states_from_checkpoint": "ftcli, which always restores them",
    "method.max_length": "data.max_length_tokens",
    "method.truncation_mode": "data.overflow",
    "method.dataset_text_field": "data.columns",
    "method.dataset_kwargs": "data.*",
    "method.dataset_num_proc": "data.*",
    "method.shuffle_dataset": "seed",
    "method.model_init_kwargs": "model.*",
    "method.trust_remote_code": "model.trust_remote_code",
    "method.eval_packing": "method.packing, which held-out rows follow",
    "method.pad_token": "the tokenizer",
    "method.eos_token": "the tokenizer",
    "method.completion_only_loss": "method, which trains the answers and nothing else",
    "method.assistant_only_loss": "method, which trains the answers and nothing else",
    "peft.task_type": "method",
    "peft.peft_type": "peft=NAME",
    "peft.base_model_name_or_path": "model.name_or_path",
    "peft.revision": "model.revision",
    "peft.inference_mode": "ftcli train",
    "peft.peft_version": "the installed PEFT",
}

# Never set from anywhere, with the reason.
REFUSED: Mapping[str, str] = {
    "train.hub_token": "a token would land in the run directory; log in with `hf auth login` instead",
    "train.dataloader_persistent_workers": "workers that outlive an epoch draw other rows after a resume",
    "train.use_liger_kernel": "deprecated by TRL, whose loss is fused already",
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
"""The flag that grants a model, or an attention kernel, to run code that it ships."""
ENDPOINT = "--allow-endpoint"
"""The flag that grants an endpoint which a file names: it is sent rows, and a key whose variable the file names."""

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
