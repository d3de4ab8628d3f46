"""The settings of our own groups, and of a judge's or generator's backend: what each reaches, and what it needs beside
it to have an effect."""

from __future__ import annotations

from ftcli.settings.fields.field_row import HELD_OUT, LISTED, Rows, plain, read
from ftcli.settings.ownership import ATTENTION, ENDPOINT, REMOTE_CODE
from ftcli.settings.trackers import SETTINGS, TRACKERS

_FOUR_BITS = "quantisation.type=nf4|nf4_double|fp4"
_PATHS = "a file's path stays in its folder, or needs --allow-path"
_SENT = "read only where the type sends something, which is granted"

ROWS: Rows = {
    "model.name_or_path": read("reads", "size", free="a hub id, a folder or a run"),
    "model.revision": read(free="a branch, tag or commit"),
    "model.attn_implementation": read(
        "runs", free="a kernel, or a hub id of one", grant=REMOTE_CODE, harmless=ATTENTION
    ),
    "model.trust_remote_code": read("runs", grant=REMOTE_CODE),
    "model.chat_template": read("reads", free="a file, or the name of a template"),
    **plain("model", "init dtype chat_template_kwargs new_tokens variant thinking has_template licence shape"),
    "data.path": read("reads", "size", free="files, folders, addresses or hub ids"),
    "data.eval_path": read("reads", "size", free="like data.path"),
    "data.mix": read("reads", "size", inside="sets of rows, checked with the data"),
    "data.subset": read("reads", free="a configuration of a hub set, or a folder inside the path"),
    **plain("data", "revision split format delimiter columns roles margin_column trained_turns template eval_share"),
    **plain("data", "near_duplicates max_bad_share max_length_tokens overflow max_rows streaming"),
    "data.mix_order": read(needs="data.mix=*"),
    "data.max_eval_rows": read(needs=f"{HELD_OUT}=true"),
    "data.split_seed": read(needs="data.eval_share>0"),
    "data.eval_group": read(needs="data.eval_share>0"),
    "data.shuffle_buffer_rows": read(needs="data.streaming=true"),
    **plain("quantisation", "type"),
    "quantisation.compute_dtype": read(needs=_FOUR_BITS),
    "quantisation.skip_modules": read(needs=f"{_FOUR_BITS}|int8"),
    "quantisation.int8_threshold": read(needs="quantisation.type=int8"),
    **plain("hardware", "type device gpu max_restarts node_type num_nodes node_rank account partition time_limit"),
    **plain("hardware", "stop_seconds max_requeues step_timeout_seconds"),
    "hardware.num_processes": read("size"),
    "hardware.num_threads": read("size"),
    "hardware.rendezvous": read("sends", free="HOST:PORT", grant=ENDPOINT),
    "hardware.container": read("reads", "runs", free="an image", grant=REMOTE_CODE),
    "hardware.sbatch": read(inside=LISTED),
    "run.dir": read("writes", free="a folder", guarded=_PATHS),
    "run.retention": read("reads", free="builtin:general, or a file"),
    "run.gate": read(inside="measures, checked with the retention set"),
    **plain("run", "name score_rows loss_before early_stopping_patience background_save profile profile_steps"),
    "run.trackers": read("writes", choices=(*TRACKERS,), guarded="in the run's folder; what sends is set below it"),
    SETTINGS: read(inside=LISTED),
}
"""Settings of the groups."""

BACKEND: Rows = {
    "type": read("sends", grant=ENDPOINT, harmless=("local", "vllm", "rules")),
    "model": read("reads", "size", free="a run, a folder, a hub id, or a name at an endpoint"),
    "base_url": read("sends", free="an address", guarded=_SENT),
    "api_key_env": read("sends", free="a variable of the environment", guarded=_SENT),
    **{
        name: read()
        for name in (
            *("revision", "batch_size", "concurrency", "timeout_seconds", "max_retries", "max_requests", "max_tokens"),
            *("logprobs", "gpu_memory_utilization", "max_model_length", "patterns"),
        )
    },
}
"""Settings of a backend, below `method.judge`, `judge` and `generator`."""

SBATCH: Rows = {
    **plain(
        "hardware.sbatch",
        "qos constraint reservation mem mem-per-gpu mem-per-cpu cpus-per-task exclude nodelist exclusive gres"
        " licenses nice begin dependency comment clusters",
    ),
    "hardware.sbatch.mail-type": read("sends", grant=ENDPOINT),
    "hardware.sbatch.mail-user": read("sends", grant=ENDPOINT),
}
"""Options of sbatch; launch/slurm.py takes these and no others."""
