"""What a training method declares about itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.methods.training_defaults import TrainingDefaults
from ftcli.settings.backends import OWN_WEIGHTS
from ftcli.settings.batch_plan import BatchPlan
from ftcli.settings.library_fields import fields_of, value_of
from ftcli.settings.limits import LIMITS, Limit
from ftcli.settings.run_spec import RunSpec
from ftcli.settings.sourced_defaults import Default

MODEL_FIELDS = {
    "reward_model": "reward_model",
    "value_model": "reward_model",
    "teacher_model": "causal_lm",
    "reference_model": "causal_lm",
}
"""Fields of methods that name a further model, and the head that it must have."""
NO_MODELS = ("head", "reward_model")
"""Values of such a field that do not name a further model."""
REWARD_FIELDS = ("reward_model", "judge", "rewards", "reward_functions")
"""Fields of methods that sample; each configures a reward."""
SCORE_ROWS = 256
"""Held-out rows that are scored at the end of a run of a small model."""


def further_models(method: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The models beside the policy that a method's settings name: the setting, the model's name, and its head."""
    for key, head in MODEL_FIELDS.items():
        name = method.get(key)
        if isinstance(name, str) and name and name not in NO_MODELS:
            yield key, name, head
    judge = method.get("judge")
    if isinstance(judge, Mapping) and judge.get("type", "local") in OWN_WEIGHTS and judge.get("model"):
        yield "judge.model", str(judge["model"]), "causal_lm"


def with_model(method: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    """The settings with another model in one of those fields."""
    field, _, inner = key.partition(".")
    return {**method, field: {**method[field], inner: name} if inner else name}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A named form of a method, chosen by its field `variant`."""

    summary: str
    """What is special about it, in a line."""
    defines: Mapping[str, Any]
    """Fields that make it what it is; another value of them is refused."""
    values: Mapping[str, Any]
    """The values that its paper has for other fields; one that is set goes before."""
    paper: str
    remark: str = ""
    """What of the paper is missing here, or is not the paper's."""

    @property
    def fields(self) -> dict[str, Any]:
        """All that it sets."""
        return {**self.defines, **self.values}

    def problems(self, name: str, settings: Mapping[str, Any]) -> list[Problem]:
        """The problems of settings that contradict the definition."""
        return [
            Problem(
                f"method.{field}",
                f"method.variant={name} is defined by method.{field}={value}, and {settings[field]} is set",
                "remove one of the two",
            )
            for field, value in self.defines.items()
            if settings.get(field) not in (None, value)
        ]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One training method.

    Trainer and config class are strings `module:Class`, so a declaration imports nothing; a test resolves each against
    the installed library.
    """

    name: str
    summary: str
    """One line that says when to choose it."""
    trainer: str
    config: str
    task: str
    """The built-in set that it takes and the tokens that it trains: pretrain, sft, instruct, preference or prompts."""
    kinds: tuple[str, ...]
    """Dataset types that it takes (see data/formats/registry.py), the preferred one first."""
    refuses_bare: bool = False
    """Whether its rows have to go through a chat template: it refuses `data.template=none`, and a model without one."""
    roles: tuple[str, ...] = ("policy",)
    """Models in memory: policy, reference, reward, value, teacher."""
    head: str = "causal_lm"
    """What it trains: a causal_lm, or a reward_model (a sequence classifier with one reward score per row)."""
    below_the_adapter: bool = False
    """Whether its loss calls the layers directly and so bypasses vectors that an adapter puts before the input."""
    joins_prompt: bool = False
    """Whether its trainer expects prompt and answer as one sequence."""
    score: str
    """Its own held-out metric: exact_match, preference_accuracy, mean_reward or none."""
    training: TrainingDefaults
    """How it is usually trained."""
    sources: Mapping[str, Default] = field(default_factory=dict)
    """Where the defaults of its own fields come from; the values are those of its group file and its config class."""
    paper: str
    next_method: str = "dpo"
    """The method that usually follows it."""
    min_batch: int = 1
    """The smallest batch per device."""
    weights: str | None = None
    """What a row's weight multiplies: the loss of its trained `tokens`, whose turns may have weights of their own, or
    that of its whole `rows`; None: the method cannot weigh rows."""
    soft_labels: bool = False
    """Whether it learns from the probability that a pair's chosen answer is the better one, where rows state it."""
    loss_over: str | None = None
    """What its losses are means over: trained `tokens`, `pairs` or `answers`, over all batches and processes; None: its
    loss of answers that are sampled anew is not held out."""
    packs: bool = False
    """Whether rows may share a block (its trainer config has `packing`)."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Trainer-config fields set unless the user says otherwise."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Trainer-config fields that define the method; the user may not set them."""
    without: tuple[str, ...] = ()
    """Trainer-config fields that do not apply to it."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    block_tokens: int | None = None
    """Length of the blocks that text is split into unless `data.max_length_tokens` is set; None: rows stay whole."""
    overflow: str = "drop"
    steps_per_epoch: Callable[[Mapping[str, Any], BatchPlan, int], int] | None = None
    """Optimiser steps per epoch where they are not rows over batch: from the method's settings (completed by the config
    class's defaults), the batch and the number of rows."""
    answers_together: Callable[[Mapping[str, Any], BatchPlan], int] = lambda _, batch: batch.rows // batch.processes
    """Answers that one process generates at a time, for a method that samples: from its completed settings and the
    batch. By default those of one step."""
    warns: Callable[[Mapping[str, Any], BatchPlan, int], list[str]] = lambda settings, batch, sequences: []
    """Warnings in the plan of a run, from its completed settings, the batch, and the sequences of one step, of which a
    pair has two."""
    variants: Mapping[str, Variant] = field(default_factory=dict)
    """The values of its field `variant`."""
    without_variant: Mapping[str, str] = field(default_factory=dict)
    """Fields that a variant would define, and what the library's own default of each means where none is named."""
    reports: tuple[str, ...] = ()
    """Names of its held-out metrics, where its own trainer computes them; empty: those in the source of TRL's."""
    check: Callable[[Mapping[str, Any]], list[Problem]] | None = None
    """Rules among its own fields: the resolved method tree in, problems out."""

    def limit_of(self, name: str) -> Limit | None:
        """The bounds of one of its fields: its own, else those that the field has under every method."""
        return self.limits.get(name) or LIMITS.get(f"method.{name}")

    def completed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The method's settings with its config class's own default in place of each that is not set."""
        return {name: value_of(self.config, settings, name) for name in fields_of(self.config)}

    def epoch_steps(self, settings: Mapping[str, Any], train: Mapping[str, Any], batch: BatchPlan, rows: int) -> int:
        """Optimiser steps of one pass over `rows`, with the method's and the `train` settings of a run.

        Raises:
            ConfigError: `train.dataloader_drop_last` drops all of them, so that no step is left.
        """
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch(self.completed(settings), batch, rows)
        drop_last = bool(train.get("dataloader_drop_last"))
        steps = batch.steps_per_epoch(rows, drop_last=drop_last)
        if drop_last and rows and not steps:
            unit = "packed block" if settings.get("packing") else "row"
            held = f"{rows} {unit}{'s' if rows > 1 else ''}"
            size = f"{batch.rows_per_pass}" + (f" on {batch.processes} processes" if batch.processes > 1 else "")
            what = f"drops the last batch of {held}, since one has {size}; no step is left to train"
            fix = f"remove it, or set train.per_device_train_batch_size={max(1, rows // batch.processes)} or less"
            raise ConfigError(Problem("train.dataloader_drop_last", what, fix))
        return steps

    @property
    def trains_answers(self) -> bool:
        """Whether rows contain answers, which must end; plain text need not end, and a prompt has no answer yet."""
        return not {"text", "prompt"} >= set(self.kinds)

    @property
    def samples(self) -> bool:
        """Whether the policy samples answers during training."""
        return "prompt" in self.kinds

    @property
    def rewarded(self) -> bool:
        """Whether sampled answers get rewards."""
        return "reward" in self.roles


def rows_to_score(spec: RunSpec, method: Method, requested: int | None = None, rows: int | None = None) -> int:
    """How many held-out rows an evaluation after the run scores: as requested, else as the run's author set it.

    Args:
        rows: the most rows that are measured at all; where the run left it open, all of them are scored.

    Raises:
        ConfigError: no row, though the method has nothing but its score, or some, though it has none.
    """
    derived = any(note.key == "run.score_rows" for note in spec.notes)
    set_by_run = None if derived else spec.run.score_rows
    number = next((each for each in (requested, set_by_run, rows) if each is not None), SCORE_ROWS)
    where = "run.score_rows=0" if requested is None else f"--score-rows {requested}"
    if method.score == "none" and requested:
        raise ConfigError(Problem(where, f"method={method.name} has no score, only its held-out loss", "leave it out"))
    if method.rewarded and number == 0:
        what = f"leaves nothing to measure: method={method.name} has no held-out loss, only its score"
        raise ConfigError(Problem(where, what, f"score some rows: --score-rows {SCORE_ROWS}"))
    return number
