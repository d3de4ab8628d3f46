"""What a table of a foreign tool is made of: their key, and our setting, our choices by value, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Key:
    """One row of a table: keys of the tool that translate in the same way."""

    names: tuple[str, ...]
    """As the tool writes them; `outer.inner` below a mapping, or below the items of a list."""
    to: str = ""
    """Our setting that takes the same value; `{}` stands for the key's own name."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Our overrides for single values, separated by spaces; they come before `to`."""
    under: str = ""
    """The choices that our setting needs, as overrides: `peft=lora`."""
    note: str = ""
    """What else is to know; without `to` and `values`, why there is none here or what to use instead."""

    @property
    def needless(self) -> bool:
        """Whether there is no setting because ftcli does by itself what the key asks for."""
        return not self.to and not self.values and self.note.startswith("none needed")

    def setting(self, name: str) -> str:
        """Our setting for one of the keys."""
        return self.to.replace("{}", name.rpartition(".")[2])


@dataclass(frozen=True, kw_only=True)
class Importer:
    """A foreign tool."""

    title: str
    """The name that its users know it by."""
    keys: tuple[Key, ...]

    def find(self, name: str) -> Key | None:
        """The row of a key."""
        return next((key for key in self.keys if name in key.names), None)


def same(names: str, to: str, under: str = "", note: str = "") -> Key:
    """Keys (separated by spaces) whose value one of our settings takes unchanged."""
    return Key(names=tuple(names.split()), to=to, under=under, note=note)


def choice(names: str, values: Mapping[str, str], to: str = "", note: str = "") -> Key:
    """Keys each of whose values is a choice, or several overrides, of ours; `to` takes any other value."""
    return Key(names=tuple(names.split()), values=MappingProxyType(dict(values)), to=to, note=note)


def none(names: str, why: str) -> Key:
    """Keys without a setting here: why none is needed, or what is used instead."""
    return Key(names=tuple(names.split()), note=why)


ENVIRONMENT = "not a setting of the training here: launching and its environment are hardware= and the shell"
OWN_TEMPLATE = "model.chat_template takes a name or a .jinja file; without it the model's own is used"
NOT_HERE = "there is none in this version"
NOT_MULTIMODAL = "there is none: this version trains on text alone"
KERNELS = "there is none: the kernels are those of transformers and model.attn_implementation"
NEVER_OVERWRITES = "none needed: a run has a directory of its own and never overwrites another"
PASSED_THROUGH = "train.deepspeed and train.fsdp are passed through to the trainer"
PARALLEL = "there is none (docs/runs.md says why): hardware=fsdp or zero3 shards what is too large for one card"
MERGE = "ftcli merge RUN writes the merged model"
RESUME = "ftcli train --resume RUN"
DERIVED_PRECISION = "derived from the hardware unless set"

TRAINING_ARGUMENTS = (
    "learning_rate num_train_epochs max_steps per_device_train_batch_size per_device_eval_batch_size "
    "gradient_accumulation_steps weight_decay max_grad_norm lr_scheduler_type lr_scheduler_kwargs warmup_steps optim "
    "optim_args adam_beta1 adam_beta2 adam_epsilon bf16 fp16 tf32 gradient_checkpointing gradient_checkpointing_kwargs "
    "logging_steps logging_strategy log_level eval_steps eval_strategy save_steps save_strategy save_total_limit "
    "load_best_model_at_end metric_for_best_model push_to_hub hub_model_id hub_strategy hub_private_repo "
    "ddp_timeout ddp_find_unused_parameters dataloader_num_workers dataloader_pin_memory neftune_noise_alpha "
    "torch_compile label_smoothing_factor deepspeed fsdp fsdp_config accelerator_config include_num_input_tokens_seen"
)
"""Fields of TrainingArguments that configurations of other tools set under the same name."""
WARMUP_RATIO = same("warmup_ratio", "train.warmup_steps", note="below 1 it is a share of all steps")
TRACKED = {name: f"run.trackers={name}" for name in ("tensorboard", "wandb", "trackio", "mlflow")}
"""The trackers that other tools name as ftcli does."""
REFUSED_FIELDS = (
    choice("report_to", TRACKED, "train.report_to", note="a tracker of run.trackers keeps the curve in the run"),
    none("overwrite_output_dir", NEVER_OVERWRITES),
    none("resume_from_checkpoint", RESUME),
    none(
        "save_only_model",
        "none: every checkpoint can be resumed; save_total_limit (train.save_total_limit) bounds them",
    ),
    none("remove_unused_columns", "none needed: only the columns in use reach the trainer"),
    none("do_train do_eval do_predict", "none needed: ftcli train trains, ftcli eval measures, ftcli generate answers"),
    none("use_liger_kernel enable_liger_kernel", "none needed: TRL's loss is already fused"),
    none("group_by_length", "train.train_sampling_strategy=group_by_length; packing (method.packing) wastes less"),
    same("seed data_seed random_state", "seed"),
    same("output_dir", "run.dir", note="run.name puts it at runs/NAME/TIME"),
    same("run_name", "run.name"),
)
"""Fields of TrainingArguments that ftcli owns under another name, or has no need of."""
