"""How a run trains where the user left it open: learning rate, passes, schedule, optimiser, and the rows of a step.

The values are those that the method and the adapter declare, with their sources (docs/defaults.md); the built-in model
has its own. The usual batch is met by the rows of a pass, the passes and the processes: what was set of them is kept,
and the rest follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.methods import Method
from ftcli.methods.training_defaults import GENERATION, GROUP, rows_of_a_step
from ftcli.peft_methods import PeftMethod
from ftcli.settings.batch_plan import ACCUMULATION, AUTO, SIZE, STANDARD_SIZE
from ftcli.settings.limits import WITHOUT_WARMUP
from ftcli.settings.run_spec import LaunchPlan, Notes, RunSpec
from ftcli.settings.sharding import sharding
from ftcli.tiny import defaults as built_in

PAGED = "paged_adamw_32bit"
"""The optimiser of a quantised base on a GPU: AdamW, whose state moves to CPU memory when the GPU's is short."""
_REPLAYED = ("learning_rate", "num_train_epochs", "lr_scheduler_type", "warmup_steps", "weight_decay", "adam_beta2")
_CRITIC_RATE = "value_learning_rate"
_AS_BEFORE = "as in the run that it starts from"


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the usual training of a run depends on."""

    method: Method
    own: Mapping[str, Any]
    """The method's settings, derived ones too."""
    peft: PeftMethod | None
    quantised: bool
    """Whether the base's weights are quantised while they are loaded."""
    parameters: int | None
    """The model's size; None is unknown."""
    launch: LaunchPlan
    earlier: Mapping[str, Mapping[str, Any]]
    """The groups `train` and `method` of the run that this one starts from, where model and adapter are the same."""

    @property
    def is_tiny(self) -> bool:
        """Whether the model is the built-in one, or another that only the built-in world's values can teach."""
        return self.parameters is not None and self.parameters <= built_in.LARGEST_PARAMETERS

    @property
    def adapter(self) -> bool:
        """Whether an adapter trains, and the base is frozen."""
        return self.peft is not None and self.peft.adapter


def derive_training(train: Mapping[str, Any], run: Situation, notes: Notes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of `train` and of the method, with the usual values where they are null."""
    result = dict(train)
    if result.get("learning_rate") is None:
        result["learning_rate"] = notes.add("train.learning_rate", *_replayed("learning_rate", run, *usual_rate(run)))
    for name, (value, why) in _usual_settings(run, result).items():
        if result.get(name) is None:
            result[name] = notes.add(f"train.{name}", *_replayed(name, run, value, why))
    _pages(result, run, notes)
    _divide(result, run, notes)
    return result, _with_critic(result, run, notes)


def usual_rate(run: Situation) -> tuple[float, str]:
    """The learning rate that a method and an adapter declare for a model of this size, and why."""
    which = f"peft={run.peft.name}" if run.peft else "full fine-tuning"
    factor = run.peft.rate_factor.value if run.peft else 1
    if run.is_tiny:
        full, adapter = built_in.LEARNING_RATES.get(run.method.name, built_in.OTHER_RATES)
        return _rounded((adapter if run.adapter else full) * factor), f"the built-in model's own, with {which}"
    declared = run.method.training.adapter if run.adapter else run.method.training.full
    size = "a model of unknown size" if run.parameters is None else f"{_billions(run.parameters)} parameters"
    return _rounded(declared.at(run.parameters).value * factor), f"usual for {run.method.name} with {which} and {size}"


def _rounded(rate: float) -> float:
    """The rate without the digits that a product of decimal fractions adds."""
    return float(f"{rate:.6g}")


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e8 else f"{parameters / 1e6:.0f}M"


def _usual_settings(run: Situation, train: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Fields of TrainingArguments that do not depend on the model's size, each with its reason."""
    if run.is_tiny:
        found = {name: (value, "the built-in model's own") for name, value in built_in.TRAINING.items()}
    else:
        why = f"usual for {run.method.name}"
        found = {name: (default.value, why) for name, default in run.method.training.settings.items()}
    kind = train.get("lr_scheduler_type")
    if kind in WITHOUT_WARMUP:
        found["warmup_steps"] = (0, f"train.lr_scheduler_type={kind} has no warm-up")
    return found


def replayed_of(spec: RunSpec) -> dict[str, dict[str, Any]]:
    """What a run that starts from this one has as well, while method, model and adapter are the same."""
    train = {name: spec.train[name] for name in _REPLAYED if spec.train.get(name) is not None}
    return {"train": train, "method": {"name": spec.method["name"], _CRITIC_RATE: spec.method.get(_CRITIC_RATE)}}


def _replayed(name: str, run: Situation, value: Any, why: str) -> tuple[Any, str]:
    """A usual value with its reason, or in its place what the run had that this one starts from."""
    before = run.earlier.get("train", {}).get(name)
    return (value, why) if before in (None, value) else (before, _AS_BEFORE)


def _pages(train: dict[str, Any], run: Situation, notes: Notes) -> None:
    sharded = sharding(train) is not None
    if train.get("optim") is None and run.quantised and run.adapter and run.launch.device == "cuda" and not sharded:
        why = "the base is quantised: AdamW's state moves to CPU memory when the GPU's is short, as in QLoRA"
        train["optim"] = notes.add("train.optim", PAGED, why)


def _with_critic(train: Mapping[str, Any], run: Situation, notes: Notes) -> dict[str, Any]:
    """The method's settings with the learning rate of its critic, where it has one: it has further to go."""
    factor, least = run.method.training.critic, run.method.training.least_critic
    if factor is None or least is None or run.own.get(_CRITIC_RATE) is not None:
        return dict(run.own)
    policy, earlier = float(train["learning_rate"]), run.earlier.get("method")
    rate = _rounded(max(factor.value * policy, least.value))
    why = f"{factor.value} times the policy's, which starts from much that it knows"
    if rate > _rounded(factor.value * policy):
        why = "the least with which a critic learns from a few hundred rollouts"
    before = float(earlier.get(_CRITIC_RATE) or policy) if earlier else rate
    if before != rate:
        rate, why = before, _AS_BEFORE
    return {**run.own, _CRITIC_RATE: notes.add(f"method.{_CRITIC_RATE}", rate, why)}


# --- the rows of a step ----------------------------------------------------------------------------------------------


def usual_rows(run: Situation) -> tuple[int, str]:
    """Rows of an optimiser step over all processes that are usual for the method, and the same in words."""
    completed = run.method.completed(run.own)
    batch = run.method.training.batch.value
    rows = rows_of_a_step(batch, completed)
    if not run.method.samples:
        return rows, f"{rows} rows a step"
    if completed.get(GROUP) and completed.get(GENERATION):
        return rows, f"{rows} answers a step, those of method.{GENERATION}"
    if completed.get(GROUP):
        return rows, f"{rows} answers a step, {completed[GROUP]} to each of {batch} prompts"
    return rows, f"{rows} answers a step, one to each prompt"


def _divide(train: dict[str, Any], run: Situation, notes: Notes) -> None:
    """Set the rows of a pass and the passes of a step, where they are open."""
    size, passes = train.get(SIZE), train.get(ACCUMULATION)
    automatic, size = size == AUTO, None if size == AUTO else size
    if size is not None and passes is not None:
        return
    processes = run.launch.num_processes
    if run.is_tiny:
        own = {SIZE: built_in.ROWS_OF_A_PASS, ACCUMULATION: 1}
        for name in (SIZE, ACCUMULATION):
            if train.get(name) in (None, AUTO):
                train[name] = (
                    own[name] if automatic else notes.add(f"train.{name}", own[name], "the built-in model's own")
                )
        return
    if automatic and passes is not None:
        train[SIZE] = STANDARD_SIZE  # a device's 8 rows, times the passes that were set
        return
    rows, words = usual_rows(run)
    completed = run.method.completed(run.own)
    if str(train.get("optim", "")).endswith("_layerwise"):
        passes = 1
    shape = _nearest(
        rows, processes, size=size, passes=passes, least=run.method.min_batch, group=int(completed.get(GROUP) or 1)
    )
    met = shape[0] * shape[1] * processes
    why = f"{words}, usual for {run.method.name}"
    if met != rows:
        unit = "answers" if run.method.samples else "rows"
        on = f" on {processes} processes" if processes > 1 else ""
        why = f"{met} {unit} a step{on}; {rows} are usual for {run.method.name}"
    for name, value in zip((SIZE, ACCUMULATION), shape, strict=True):
        if train.get(name) in (None, AUTO):
            train[name] = value if automatic else notes.add(f"train.{name}", value, why)


def _nearest(
    rows: int, processes: int, *, size: int | None, passes: int | None, least: int, group: int
) -> tuple[int, int]:
    """The rows of a pass and the passes of a step that come nearest to a batch, and keep groups of answers whole.

    Of several that come as near, the one with the largest passes of at most 8 rows.
    """
    share = rows / processes

    def shapes() -> Iterator[tuple[int, int]]:
        most = max(1, round(share) + group)
        if size is not None:
            yield from ((size, count) for count in range(1, most // size + 2))
        elif passes is not None:
            yield from ((count, passes) for count in range(least, max(least, most // passes + 1) + 1))
        else:
            smallest = max(least, min(4, round(share)))
            for rows_of_a_pass in range(smallest, max(smallest, STANDARD_SIZE) + 1):
                yield from ((rows_of_a_pass, count) for count in range(1, most // rows_of_a_pass + 2))

    found = list(shapes())
    whole = [each for each in found if each[0] * each[1] * processes % group == 0] or found
    return min(whole, key=lambda each: (abs(each[0] * each[1] - share), -each[0]))
