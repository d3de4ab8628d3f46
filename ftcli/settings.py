"""The settings that ftcli itself owns, group by group: type, default, and what each is for.

The text under a field is its documentation: `ftcli show GROUP` and the generated tables print it. What
TrainingArguments, the TRL configs and the PEFT configs own is read from the installed libraries (see schema.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Group `model`: which weights, and how they are loaded."""

    name_or_path: str = "builtin:tiny"
    """Hub id, local folder of a Hugging Face model, or an ftcli run (its directory, name or model/)."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    init: Literal["pretrained", "random"] = "pretrained"
    """pretrained loads the weights; random keeps configuration and tokenizer and starts from fresh weights."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type the weights are held in; auto is float32 on CPU and bfloat16 on GPUs that have it."""
    attn_implementation: str = "auto"
    """Attention kernel: auto (sdpa, or eager for architectures that refuse it), sdpa, eager, flash_attention_2,
    flash_attention_3, flex_attention, or a kernel's hub id."""
    trust_remote_code: bool = False
    """Runs Python code shipped with the model; only granted on the command line with --trust-remote-code."""
    shape: dict[str, Any] | None = None
    """The published architecture, so that planning needs no network; null reads it from a local config.json."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Group `data`: which rows, and how they become tokens."""

    path: str = "builtin:tiny"
    """File to train on (json, jsonl, csv, txt, parquet); builtin:tiny is the set of the method's task."""
    eval_path: str | None = None
    """File to validate on; excludes eval_share."""
    eval_share: float = 0.0
    """Share of the rows held out for validation, drawn by seed."""
    format: str = "auto"
    """Row format (see `ftcli list format`); auto recognises it from the first row."""
    columns: dict[str, str] | None = None
    """Canonical column name: the name it has in the file."""
    max_length_tokens: int | None = None
    """Longest row in tokens; null is the smaller of the model's limit and 4096 (pretrain: 1024)."""
    overflow: Literal["auto", "drop", "error", "truncate_right", "split"] = "auto"
    """What happens to longer rows; auto drops and counts them, and splits them for pretrain."""
    max_rows: int | None = None
    """Use only the first so many rows."""
    max_eval_rows: int | None = None
    """Validate on only the first so many rows."""


@dataclass(frozen=True, kw_only=True)
class QuantisationSettings:
    """Group `quantisation`: how the frozen base weights are stored."""

    type: Literal["none"] = "none"
    """none keeps the weights in model.dtype."""


@dataclass(frozen=True, kw_only=True)
class HardwareSettings:
    """Group `hardware`: where the run computes."""

    type: Literal["auto", "cpu", "gpu", "multi_gpu"] = "auto"
    """auto takes one GPU when there is one, else the CPU; multi_gpu starts one process a GPU."""
    num_processes: int | None = None
    """Processes to start; null is one, or one a GPU under multi_gpu."""
    num_threads: int | None = None
    """CPU threads of each process; null is the machine's cores divided among the processes."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Group `run`: where the run is written and what it measures besides the loss."""

    dir: str | None = None
    """Run directory; null is runs/NAME/TIME."""
    name: str | None = None
    """Name of the run; null is METHOD-MODEL."""
    score_rows: int | None = None
    """Held-out rows scored before and after training; null is 256 for models below 10M parameters, else 0."""
    early_stopping_patience: int | None = None
    """Evaluations without improvement after which the run stops; needs train.load_best_model_at_end."""


OWN_GROUPS: dict[str, type] = {
    "model": ModelSettings,
    "data": DataSettings,
    "quantisation": QuantisationSettings,
    "hardware": HardwareSettings,
    "run": RunSettings,
}

GROUPS = ("method", "model", "data", "peft", "quantisation", "hardware", "train")

# Settings whose value is a path or a name taken literally from the command line.
PATH_KEYS = frozenset({"data.path", "data.eval_path", "model.name_or_path", "run.dir"})
