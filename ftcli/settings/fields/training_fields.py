"""The fields of transformers' TrainingArguments, group `train`."""

from __future__ import annotations

from ftcli.settings.fields.field_row import HELD_OUT, Rows, members, owned, plain, read, refused
from ftcli.settings.ownership import ENDPOINT, LOCAL_REPORTERS, PUSH, REPORTERS
from ftcli.settings.sharding import NO_CONTEXT_PARALLEL, NO_TENSOR_PARALLEL

_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")
_MEASURED = f"{HELD_OUT}=true"
_EVALUATES = "train.eval_strategy=steps|epoch"
_LOADS = "train.dataloader_num_workers>0"
_SEVERAL = "hardware.num_processes>1"
_REPLICATED = (_SEVERAL, "not train.deepspeed=*", "not train.fsdp=*")
_PUSHES = "train.push_to_hub=true"
_TRACKIO = "train.report_to=trackio|all"
_UNREAD_METRICS = "held-out metrics are ftcli's own (run.score_rows), so no predictions are collected for it"
_FULL_EVAL = "it casts the model for the first measurement, and what trains and is saved would then be of that type"

ROWS: Rows = {
    # What is trained: steps, batches, learning rate.
    **plain(
        "train",
        "max_steps learning_rate warmup_steps weight_decay gradient_accumulation_steps max_grad_norm"
        " full_determinism dataloader_drop_last dataloader_pin_memory lr_scheduler_type"
        " torch_compile torch_empty_cache_steps skip_memory_metrics",
    ),
    "train.num_train_epochs": read(needs="not train.max_steps>0"),
    "train.average_tokens_across_devices": read(needs=_SEVERAL),
    "train.per_device_train_batch_size": read("size"),
    "train.per_device_eval_batch_size": read("size", needs=_MEASURED),
    "train.include_num_input_tokens_seen": read(choices=("no", "all", "non_padding")),
    "train.lr_scheduler_kwargs": read(inside="schedule"),
    "train.optim": read("runs", guarded="its words are those of the installed trainer"),
    "train.optim_args": read(free="NAME=VALUE,…, checked against what the optimiser reads"),
    "train.optim_target_modules": read(
        free="names of the model's modules", needs="train.optim=galore_*|apollo_*|lomo*|adalomo"
    ),
    "train.adam_beta1": read(),
    "train.adam_beta2": read(),
    "train.adam_epsilon": read(),
    "train.label_smoothing_factor": read(needs="method.loss_type=nll", configs=("SFTConfig",)),
    "train.neftune_noise_alpha": read(),
    # Precision and memory.
    "train.bf16": read(),
    "train.fp16": read(),
    "train.tf32": read(),
    "train.bf16_full_eval": refused(_FULL_EVAL),
    "train.fp16_full_eval": refused(_FULL_EVAL),
    "train.gradient_checkpointing": read(),
    "train.gradient_checkpointing_kwargs": read(inside="checkpointing", needs="train.gradient_checkpointing=true"),
    "train.activation_checkpointing": owned("train.gradient_checkpointing"),
    "train.activation_checkpointing_kwargs": owned("train.gradient_checkpointing_kwargs"),
    "train.torch_compile_backend": read(
        "runs", choices=("inductor", "eager", "aot_eager", "cudagraphs"), guarded="its words are torch's own backends"
    ),
    "train.torch_compile_mode": read(
        choices=("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
    ),
    "train.use_liger_kernel": refused("deprecated by TRL, whose loss is already fused"),
    "train.liger_kernel_config": refused("it belongs to train.use_liger_kernel, which TRL deprecates"),
    "train.use_cache": refused("training reads no KV cache, and with one packed documents would not be kept apart"),
    "train.auto_find_batch_size": owned(
        "ftcli plan, which estimates memory (the search restarts on trained weights)"
    ),
    # Logging.
    "train.logging_strategy": read(),
    "train.logging_steps": read(needs="train.logging_strategy=steps"),
    "train.logging_first_step": read(),
    "train.log_on_each_node": read(needs=_SEVERAL),
    "train.logging_nan_inf_filter": owned("ftcli, which stops a run whose loss is not a number"),
    "train.log_level": read(choices=_LEVELS),
    "train.log_level_replica": read(choices=_LEVELS, needs=_SEVERAL),
    "train.disable_tqdm": owned("the progress display of ftcli, which prints plain lines outside a terminal"),
    "train.report_to": read(
        "sends", "writes", choices=(*REPORTERS, "none", "all"), grant=ENDPOINT, harmless=LOCAL_REPORTERS
    ),
    "train.run_name": owned("run.name"),
    "train.project": read(free="a name at trackio", needs=_TRACKIO),
    "train.trackio_space_id": read("sends", free="a name at the hub", needs=_TRACKIO, grant=PUSH),
    "train.trackio_bucket_id": read("sends", free="a name at the hub", needs=_TRACKIO, grant=PUSH),
    "train.trackio_static_space_id": read("sends", free="a name at the hub", needs=_TRACKIO, grant=PUSH),
    "train.debug": read(choices=members("transformers.debug_utils", "DebugOption"), spaced=True),
    # Evaluation.
    "train.do_train": owned("ftcli train"),
    "train.do_eval": owned("data.eval_path"),
    "train.do_predict": owned("ftcli generate"),
    "train.eval_strategy": read(),
    "train.eval_steps": read(needs="train.eval_strategy=steps"),
    "train.eval_delay": read(needs=_EVALUATES),
    "train.eval_on_start": read(needs=_MEASURED),
    "train.eval_accumulation_steps": read(needs=_MEASURED),
    "train.eval_use_gather_object": read(needs=_SEVERAL),
    "train.prediction_loss_only": refused(_UNREAD_METRICS),
    "train.eval_do_concat_batches": refused(_UNREAD_METRICS),
    "train.include_for_metrics": refused(_UNREAD_METRICS),
    "train.batch_eval_metrics": refused(_UNREAD_METRICS),
    "train.load_best_model_at_end": read(),
    "train.metric_for_best_model": read(free="a metric that the trainer reports, checked against its source"),
    "train.greater_is_better": read(),
    # Saving.
    "train.output_dir": owned("run.dir", "writes"),
    "train.save_strategy": read(),
    "train.save_steps": read(needs="train.save_strategy=steps"),
    "train.save_total_limit": read(needs="train.save_strategy=steps|epoch|best"),
    "train.save_on_each_node": read(needs=_SEVERAL),
    "train.save_only_model": owned("ftcli, whose checkpoints can always be resumed"),
    "train.enable_jit_checkpoint": owned("ftcli, which saves a checkpoint when it is asked to stop"),
    "train.resume_from_checkpoint": owned("--resume RUN", "reads"),
    "train.ignore_data_skip": owned("ftcli, which always resumes at the right row"),
    "train.restore_callback_states_from_checkpoint": owned("ftcli, which always restores them"),
    "train.push_to_hub": read("sends", grant=PUSH),
    "train.hub_token": refused(
        "the token would be saved in the run directory; log in with `hf auth login` instead", "sends"
    ),
    "train.hub_model_id": read("sends", free="a name at the hub", needs=_PUSHES, grant=PUSH),
    "train.hub_strategy": read("sends", needs=_PUSHES, grant=PUSH),
    "train.hub_revision": read("sends", free="a branch at the hub", needs=_PUSHES, grant=PUSH),
    "train.hub_private_repo": read("sends", needs=_PUSHES, grant=PUSH),
    "train.hub_always_push": read("sends", needs=_PUSHES, grant=PUSH),
    # Rows on their way into the model.
    "train.seed": owned("seed"),
    "train.data_seed": owned("seed"),
    "train.remove_unused_columns": owned("ftcli, which passes on only the columns in use"),
    "train.label_names": refused("the rows have the columns that the trainer reads, under its own names"),
    "train.length_column_name": refused("the lengths are those of the tokens, and no column of a row says them"),
    "train.train_sampling_strategy": read(),
    "train.dataloader_num_workers": read("size"),
    "train.dataloader_prefetch_factor": read("size", needs=_LOADS),
    "train.dataloader_multiprocessing_context": read(needs=_LOADS),
    "train.dataloader_in_order": read(needs=_LOADS),
    "train.dataloader_persistent_workers": refused(
        "workers that outlive an epoch draw different rows after a resume"
    ),
    # Hardware and processes.
    "train.use_cpu": owned("hardware=cpu"),
    "train.local_rank": owned("hardware.num_processes"),
    "train.accelerator_config": read("reads", inside="accelerator"),
    "train.parallelism_config": refused(f"{NO_TENSOR_PARALLEL}; {NO_CONTEXT_PARALLEL}"),
    "train.ddp_backend": read("sends", needs=_SEVERAL, guarded="between the processes of the run"),
    "train.ddp_timeout": read(needs=_SEVERAL),
    **{
        f"train.ddp_{name}": read(needs=_REPLICATED)
        for name in ("find_unused_parameters", "bucket_cap_mb", "broadcast_buffers", "static_graph")
    },
    "train.fsdp": read(choices=members("transformers.trainer_utils", "FSDPOption"), spaced=True),
    "train.fsdp_config": read("reads", inside="fsdp", needs="train.fsdp=*"),
    "train.deepspeed": read("reads", inside="deepspeed"),
}  # fmt: skip
