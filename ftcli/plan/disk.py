"""What a run writes: its checkpoints, the final model and the prepared tokens, from sizes alone.

At its fullest a run holds the checkpoints that it keeps, the next one in its staging folder, and its final model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.data import row_sets
from ftcli.models.known_shapes import model_shape, tokenizer_folder
from ftcli.models.parameters import num_parameters
from ftcli.plan.memory import DTYPE_BYTES, GIB
from ftcli.plan.optimiser_states import optimiser_bytes
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.batch_plan import train_value
from ftcli.settings.groups import as_saved
from ftcli.settings.run_spec import RunSpec

# estimate: rows of ids, labels and lengths as arrow tables, ten bytes a token.
_TOKEN_BYTES = 10
# estimate: the generators, the place in the rows and the log window of a process; configuration, manifest, model card.
_PROCESS_BYTES, _TEXT_BYTES = 64 << 10, 64 << 10
# estimate: spec, ledger, log and a line of metrics a step.
_RECORDS_BYTES, _LINE_BYTES = 1 << 20, 600
_MOST_STEPS = 100_000
"""For the size of metrics alone, where steps are not counted."""
_TEXT_ENDS, _MOST_PACKED = (".jsonl", ".json", ".csv", ".tsv", ".txt"), 10
_TOKENIZER_BYTES = 20 << 20
"""estimate, where the tokenizer is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class DiskEstimate:
    """Sizes in GiB."""

    checkpoint_gib: float
    """One checkpoint."""
    checkpoints: int
    """Those that the run holds at its fullest, the one that is being written among them."""
    model_gib: float
    """The final model or adapter."""
    records_gib: float
    """Log, metrics and what else the run directory holds."""
    cache_gib: float
    """The prepared tokens, which lie in the cache folder and are shared by runs of the same rows."""

    @property
    def run_gib(self) -> float:
        """All that is written to the run directory."""
        return self.checkpoints * self.checkpoint_gib + self.model_gib + self.records_gib

    def __str__(self) -> str:
        each = f"{self.checkpoints} checkpoint{'s' * (self.checkpoints > 1)} of {size(self.checkpoint_gib)}"
        return f"{size(self.run_gib)} (estimate): {each}, model {size(self.model_gib)}"


def size(gib: float) -> str:
    """A size for people: GiB, or MiB below a tenth of one."""
    return f"{gib:.1f} GiB" if gib >= 0.1 else f"{gib * 1024:.1f} MiB"


def disk_at_most(run: ResolvedRun, trainable: int | None) -> DiskEstimate | None:
    """The most that a run writes, without counting its rows; None where only these say how often it saves."""
    train = run.spec.train
    strategy, steps = str(train_value(train, "save_strategy")), train.get("max_steps")
    if steps is None and strategy in ("steps", "best") and not train.get("save_total_limit"):
        return None
    return disk(run, trainable, _most_tokens(run), _MOST_STEPS if steps is None else int(steps))


def _most_tokens(run: ResolvedRun) -> int:
    """At least the tokens of a run's local rows: no text has more tokens than bytes, packed ten times at most."""
    found = 0
    for each in row_sets.every_set(run.spec.data, run.method):
        for file in row_sets.located(each, each.key, fetch=False) or ():
            if os.path.isfile(file.path):
                packed = 1 if file.path.endswith(_TEXT_ENDS) else _MOST_PACKED
                found += os.path.getsize(file.path) * packed
    return found


def disk(run: ResolvedRun, trainable: int | None, tokens: int, steps: int) -> DiskEstimate | None:
    """What a run writes that trains `tokens` an epoch; None where the model or what trains is unknown."""
    if run.shape is None or trainable is None or (total := num_parameters(run.shape)) is None:
        return None
    spec = run.spec
    tokenizer = _tokenizer_bytes(spec)
    stored = DTYPE_BYTES.get(spec.model.dtype, 4.0)
    model = (trainable * 4.0 if run.trains_adapter else total * stored) + tokenizer + _TEXT_BYTES
    checkpoint = _checkpoint_bytes(run, trainable, total) + tokenizer + _TEXT_BYTES
    checkpoint += _PROCESS_BYTES * spec.launch.num_processes
    cached = 0.0 if spec.data.streaming else tokens * _TOKEN_BYTES
    return DiskEstimate(
        checkpoint_gib=checkpoint / GIB,
        checkpoints=_held(spec, steps),
        model_gib=model / GIB,
        records_gib=(_RECORDS_BYTES + steps * _LINE_BYTES) / GIB,
        cache_gib=cached / GIB,
    )


def _checkpoint_bytes(run: ResolvedRun, trainable: int, total: int) -> float:
    """The tensors of one checkpoint, without those of a tokenizer and a process."""
    spec, shape = run.spec, run.shape
    assert shape is not None
    held = 4.0 if run.trains_adapter or spec.holds_masters else DTYPE_BYTES.get(spec.model.dtype, 4.0)
    weights = trainable * held if run.trains_adapter else (total - trainable) * held + trainable * held
    states = optimiser_bytes(
        str(train_value(spec.train, "optim")), trainable, held, run.trains_adapter, shape.hidden_size
    )
    if spec.train.get("deepspeed"):
        # Weights for from_pretrained, DeepSpeed's own, and float32 masters with two states of float32.
        return 2 * weights + trainable * 12.0
    # An adapter is saved as PEFT saves it and as it is in memory; FSDP saves its own file beside the model's.
    copies = 2 if run.trains_adapter or spec.train.get("fsdp") else 1
    return copies * weights + states + _further_networks(run, total, held)


def _further_networks(run: ResolvedRun, total: int, held: float) -> float:
    """A critic with its optimiser, whole in every checkpoint, and a reference that follows the policy."""
    spec, found = run.spec, 0.0
    if spec.method.get("sync_ref_model"):
        found += total * held
    named = spec.method.get("value_model") if "value" in run.method.roles else None
    named = spec.method.get("reward_model") if named == "reward_model" else named
    if named not in (None, "head"):  # a head on the policy is a row of numbers
        shape = model_shape(as_saved(spec.model, str(named)))
        found += ((num_parameters(shape) if shape else None) or total) * 4.0 * 3
    return found


def _held(spec: RunSpec, steps: int) -> int:
    """Checkpoints at the run's fullest: those that it keeps, and the one that is being written."""
    saved = max(1, _saves(spec.train, steps))  # a run that saves none still saves one where it is stopped
    limit = spec.train.get("save_total_limit")
    if limit:
        best = spec.train.get("metric_for_best_model") or spec.train.get("load_best_model_at_end")
        return min(saved, max(int(limit), 2 if best else 1) + 1)
    return saved


def _saves(train: Mapping[str, Any], steps: int) -> int:
    """How often a run saves."""
    strategy = str(train_value(train, "save_strategy"))
    if strategy == "no":
        return 0
    if strategy == "epoch":
        return math.ceil(float(train_value(train, "num_train_epochs")))
    each = float(train_value(train, "eval_steps" if strategy == "best" else "save_steps") or 1)
    return math.ceil(steps / max(1.0, each if each >= 1 else math.ceil(steps * each)))


def _tokenizer_bytes(spec: RunSpec) -> float:
    folder = tokenizer_folder(spec.model)
    if folder is None:
        return float(_TOKENIZER_BYTES)
    files = [path for path in Path(folder).glob("*") if path.is_file() and "safetensors" not in path.name]
    return float(sum(path.stat().st_size for path in files if path.suffix in (".json", ".model", ".jinja", ".txt")))
