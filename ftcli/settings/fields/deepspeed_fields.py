"""What a DeepSpeed configuration holds, as `train.deepspeed.ENTRY`, read from the sources of deepspeed 0.19.

DeepSpeed writes and sends wherever its file says, so every entry that a run may have is sorted here; a row covers what
is below it, but where its `inside` says that its entries have rows of their own.
"""

from __future__ import annotations

from ftcli.settings.fields.field_row import LISTED, FieldRow, Rows, plain, read, refused
from ftcli.settings.ownership import ALLOW_PATH, ENDPOINT, REMOTE_CODE

_ZERO = "train.deepspeed.zero_optimization"
_IN_HOME = "without a path of its own it writes into the home folder"
_ZERO_NAMES = (
    "stage contiguous_gradients reduce_scatter reduce_bucket_size use_multi_rank_bucket_allreduce allgather_partitions"
    " allgather_bucket_size overlap_comm compute_grad_norm load_from_fp32_weights elastic_checkpoint zenflow"
    " sub_group_size cpu_offload_param cpu_offload_use_pin_memory cpu_offload prefetch_bucket_size"
    " param_persistence_threshold model_persistence_threshold max_live_parameters max_reuse_distance"
    " gather_16bit_weights_on_model_save module_granularity_threshold use_all_reduce_for_fetch_params"
    " allgather_sequential ignore_unused_parameters legacy_stage1 round_robin_gradients parameter_alignment"
    " zero_hpz_partition_size zero_quantized_weights zero_quantized_nontrainable_weights zero_quantized_gradients"
    " memory_efficient_linear pipeline_loading_checkpoint override_module_apply log_trace_cache_warnings"
    " enable_sanity_checks save_muon_momentum_buffer_in_memory leaf_module"
)

ROWS: Rows = {
    "train.deepspeed": FieldRow(inside=LISTED),
    # Batches, precision, communication and what is printed.
    **plain(
        "train.deepspeed",
        "train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps gradient_clipping max_grad_norm"
        " optimizer scheduler fp16 bf16 bfloat16 amp data_types communication_data_type check_overflow"
        " seq_parallel_communication_data_type prescale_gradients gradient_predivide_factor gradient_allreduce_op"
        " disable_allgather disable_python_gc steps_per_print wall_clock_breakdown memory_breakdown dump_state"
        " dataloader_drop_last zero_allow_untested_optimizer zero_force_ds_cpu_optimizer vocabulary_size"
        " activation_checkpointing comms_logger aio elasticity hybrid_engine pipeline sparse_attention"
        " compression_training zenflow tensor_parallel use_data_before_expert_parallelism log_level",
    ),
    _ZERO: FieldRow(inside=LISTED),
    **plain(_ZERO, _ZERO_NAMES),
    # As they were called when only stage 3 had them; transformers still writes some so.
    **plain(_ZERO, " ".join(f"stage3_{name}" for name in _ZERO_NAMES.split())),
    **plain(_ZERO, "stage3_gather_fp16_weights_on_model_save"),
    f"{_ZERO}.offload_param": FieldRow(inside=LISTED),
    **plain(f"{_ZERO}.offload_param", "device buffer_count buffer_size max_in_cpu pin_memory"),
    f"{_ZERO}.offload_param.nvme_path": read("writes", grant=ALLOW_PATH),
    f"{_ZERO}.offload_optimizer": FieldRow(inside=LISTED),
    **plain(
        f"{_ZERO}.offload_optimizer",
        "device buffer_count pin_memory pipeline_read pipeline_write fast_init ratio super_offload cpuadam_cores_perc",
    ),
    f"{_ZERO}.offload_optimizer.nvme_path": read("writes", grant=ALLOW_PATH),
    # Files.
    "train.deepspeed.flops_profiler": FieldRow(inside=LISTED),
    **plain(
        "train.deepspeed.flops_profiler",
        "enabled recompute_fwd_factor profile_step module_depth top_modules detailed",
    ),
    "train.deepspeed.flops_profiler.output_file": read("writes", grant=ALLOW_PATH),
    "train.deepspeed.tensorboard": read("writes", free=_IN_HOME, grant=ALLOW_PATH),
    "train.deepspeed.csv_monitor": read("writes", free=_IN_HOME, grant=ALLOW_PATH),
    "train.deepspeed.nebula": read("writes", grant=ALLOW_PATH),
    "train.deepspeed.data_efficiency": read("reads", "writes", grant=ALLOW_PATH),
    "train.deepspeed.checkpoint": FieldRow(inside=LISTED),
    **plain("train.deepspeed.checkpoint", "tag_validation use_node_local_storage parallel_write"),
    "train.deepspeed.checkpoint.load_universal": refused("ftcli resumes from checkpoints of its own", "reads"),
    # Trackers.
    "train.deepspeed.wandb": read("sends", grant=ENDPOINT),
    "train.deepspeed.comet": read("sends", grant=ENDPOINT),
    # Modules that DeepSpeed imports by name.
    "train.deepspeed.compile": read("runs", grant=REMOTE_CODE),
    "train.deepspeed.torch_autocast": FieldRow(inside=LISTED),
    **plain("train.deepspeed.torch_autocast", "enabled dtype"),
    "train.deepspeed.torch_autocast.lower_precision_safe_modules": read("runs", grant=REMOTE_CODE),
    "train.deepspeed.autotuning": refused(
        "it starts the program again and again, which ftcli does not", "runs", "writes"
    ),
}
