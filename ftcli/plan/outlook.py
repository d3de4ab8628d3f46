"""Resolved run → its plan: steps, tokens, parameters, memory, warnings. Changes nothing and needs no GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.core import hardware, paths
from ftcli.core.text import shell_word
from ftcli.data import row_sets
from ftcli.launch.profile import node_profile
from ftcli.methods import Method
from ftcli.models import known_shapes, sources
from ftcli.models.known_shapes import tokenizer_folder
from ftcli.models.modules import modules
from ftcli.models.packing_support import why_unpacked
from ftcli.models.parameters import num_parameters, operations_per_token
from ftcli.models.shape import Shape
from ftcli.peft_methods.experts import Reach, reach, why_no_experts
from ftcli.peft_methods.lora_counts import renamed_by_peft
from ftcli.plan.disk import DiskEstimate, disk
from ftcli.plan.memory import MemoryEstimate
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.plan.run_memory import answer_tokens, engine_length, run_memory, stays_quantised
from ftcli.plan.token_cache import count
from ftcli.plan.tokens import TokenCount
from ftcli.settings.batch_plan import train_value
from ftcli.settings.groups import ModelSettings
from ftcli.settings.limits import WITHOUT_WARMUP
from ftcli.settings.run_spec import Note, RunSpec
from ftcli.tiny import MODEL_DIR

_FEW_STEPS, _MANY_ROWS = 20, 100
"""A packed run is warned of where it has fewer steps than this, each over at least this many rows."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of one run. Counts that need a model or tokenizer which is not available are None."""

    trainer: str
    model: str
    device: str
    num_processes: int
    global_batch: int
    """Rows (or packed blocks) per optimiser step, over all processes and accumulation."""
    rows: int
    rows_kept: int
    blocks: int | None
    """Blocks that the rows of one epoch are packed into; None without packing."""
    unrolled: int
    """Conversations of which each trained turn is a training example of its own."""
    unrolled_examples: int
    """The training examples of these conversations."""
    repeated_tokens: int
    """The tokens that they have beyond those of the longest example of each."""
    steps: int
    tokens_per_epoch: int
    tokens_exact: bool
    parameters: int | None
    trainable: int | None
    flops: float | None
    """Floating-point operations of the training steps: 6 per token and parameter that it visits, 4 where the base is
    frozen."""
    memory: MemoryEstimate | None
    disk: DiskEstimate | None
    """What it writes."""
    warnings: tuple[str, ...]
    notes: tuple[Mapping[str, Any], ...]
    rows_unknown: tuple[str, ...] = ()
    """The data sets that are not on this machine: rows and tokens are then counts of the others alone."""
    rows_at_most: int | None = None
    """What `data.max_rows` bounds unknown rows to."""
    steps_unknown: bool = False
    """Whether steps are unknown, since they follow from unknown rows; then `steps`, `flops` and `disk` are too low."""
    steps_at_most: int | None = None
    """The steps of `rows_at_most` rows."""


def trainable_parameters(run: ResolvedRun) -> int | None:
    """Number of trainable parameters; None where the architecture is unknown."""
    if run.shape is None:
        return None
    if run.peft is None:
        return model_parameters(run.shape, run.method)
    if stays_quantised(run) and _reach(run):
        return None  # which experts an adapter reaches depends on how the kernels hold them
    found = run.peft.count(run.shape, run.spec.peft)
    if found is not None and run.trains_adapter:
        found += _rows_of_new_tokens(run, run.shape)
    # The score head of a reward model is new, so it trains in any case.
    return found if found is None or run.method.head == "causal_lm" else found + run.shape.hidden_size


def _rows_of_new_tokens(run: ResolvedRun, shape: Shape) -> int:
    """Parameters that an adapter trains for new tokens: a row each of every matrix that it does not train whole."""
    whole = [str(name) for name in run.spec.peft.get("modules_to_save") or ()]
    matrices = 1 - any("emb" in name or "wte" in name for name in whole)
    if run.method.head == "causal_lm" and not shape.tie_word_embeddings:
        matrices += 1 - ("lm_head" in whole)
    return len(run.spec.model.new_tokens or ()) * shape.hidden_size * matrices


def model_parameters(shape: Shape | None, method: Method) -> int | None:
    """Parameters of the model with the method's head; None where the architecture is unknown."""
    whole = num_parameters(shape) if shape else None
    if shape is None or whole is None or method.head == "causal_lm":
        return whole
    lm_head = 0 if shape.tie_word_embeddings else shape.vocab_size * shape.hidden_size
    return whole - lm_head + shape.hidden_size


def num_steps(run: ResolvedRun, rows: int) -> int:
    """Optimiser steps of the run, as the Trainer counts them; `rows` are those trained on in one epoch.

    Raises:
        ConfigError: `train.dataloader_drop_last` leaves no step.
    """
    train = run.spec.train
    each = run.method.epoch_steps(run.spec.method, train, run.batch, rows)
    if train.get("max_steps") is not None:
        return int(train["max_steps"])
    return math.ceil(float(train_value(train, "num_train_epochs")) * max(1, each))


def _sequences(spec: RunSpec, counted: TokenCount) -> int:
    """Sequences of the rows after packing and splitting, those held out too."""
    pieces = counted.pieces
    if spec.method.get("packing") and counted.tokens:
        full = math.ceil(counted.tokens / counted.max_length_tokens)
        pieces = full if spec.method.get("packing_strategy") == "wrapped" else counted.blocks or full
    return pieces


def _training_rows(spec: RunSpec, counted: TokenCount) -> int:
    """Sequences of one epoch after packing and splitting, without those held out."""
    pieces = _sequences(spec, counted)
    if not spec.data.eval_share or not counted.rows:
        return pieces
    # As the worker draws them: of all rows, at least one and never all. Rows over the limit are missing on both sides.
    held_out = min(max(1, round(spec.data.eval_share * counted.rows)), counted.rows - 1)
    return max(1, pieces - round(held_out * pieces / counted.rows))


def _warnings(run: ResolvedRun, counted: TokenCount, sequences: int, stand_in: bool) -> list[str]:
    spec, method, shape, found = run.spec, run.method, run.shape, list[str]()
    if counted.faulty:
        found.append(f"{counted.faulty} rows cannot be used; ftcli data check lists them")
    found.extend(counted.unread)
    if counted.overlong:
        outcomes = {"drop": "are dropped", "split": "are split"}
        outcomes |= {f"truncate_{side}": f"are truncated on the {side}" for side in ("left", "right")}
        outcome = outcomes.get(spec.data.overflow, "stop the training")
        limit = counted.max_length_tokens
        found.append(f"{counted.overlong} of {counted.rows} rows are longer than {limit} tokens and {outcome}")
    if unknown := _not_here(run):
        found += [f"{path} is not on this machine; {_follows(run, path)}" for path in unknown if path != paths.UNNAMED]
    if run.unnamed:
        names = " ".join(f"{key}={wanted}" for key, wanted in run.unnamed.items())
        found.append(f"still to be named, and unknown until then with all that follows from it: {names}")
    if paths.is_builtin(spec.data.path) and not stand_in and not _is_builtin(spec.model):
        found.append(f"{spec.data.path} is a built-in demonstration set; set your own with data.path=FILE")
    if shape is None or not shape.known:
        why = known_shapes.why_unmeasured(spec.model)
        found += [f"the parameters of {spec.model.name_or_path} are unknown: {why}"] if why else []
    found.extend(_experts_left_out(run))
    for name in ("fsdp", "deepspeed"):
        if spec.train.get(name) and name not in node_profile(spec.hardware).train:
            tested = "tested are hardware=fsdp, zero2 and zero3"
            found.append(f"train.{name} is passed through to the trainer unchanged; {tested}")
    if spec.launch.device == "cpu" and spec.train.get("bf16") and hardware.cpu_multiplies_bfloat16() is False:
        found.append("train.bf16=true: this CPU emulates bfloat16, which takes up to twenty times as long as float32")
    if spec.method.get("packing") and (reason := _why_unpacked(run)):
        found.append(f"method.packing=true: {reason}")
    if spec.run.score_rows and method.score == "none":
        found.append(f"{method.name} has no metric of its own; only the held-out loss is reported")
    if spec.method.get("packing") and counted.kept and not stand_in:
        found.extend(_few_steps(run, counted, sequences))
    if not stand_in and not (unknown and _steps_follow(run)):
        found.extend(_long_warmup(run, num_steps(run, sequences)))
    in_pairs = counted.pairs / counted.kept if counted.kept else 0
    found.extend(method.warns(method.completed(spec.method), run.batch, round(run.batch.rows * (1 + in_pairs))))
    return found


def _not_here(run: ResolvedRun) -> tuple[str, ...]:
    """The data sets that are trained on and of which only the network could tell how many rows they have."""
    sets = row_sets.train_sets(run.spec.data, run.method)
    return tuple(each.path for each in sets if row_sets.located(each, each.key, fetch=False) is None)


def _steps_follow(run: ResolvedRun) -> bool:
    """Whether the number of steps follows from that of the rows."""
    return run.spec.train.get("max_steps") is None


def _follows(run: ResolvedRun, path: str) -> str:
    """What follows from a data set that is not here, and what there is against it."""
    unknown = "its rows and tokens are unknown until the run has fetched it"
    if _steps_follow(run):
        unknown = "rows, tokens, steps and what follows from them (time, checkpoints) are unknown until the run has it"
    fixes = [f"ftcli data check {shell_word(f'data.path={path}')} fetches and counts it"]
    fixes += ["data.max_rows=N bounds its rows"] if run.spec.data.max_rows is None else []
    fixes += ["train.max_steps=N fixes the steps"] if _steps_follow(run) else []
    return f"{unknown}: {', '.join(fixes)}"


def _at_most(run: ResolvedRun, unknown: tuple[str, ...]) -> int | None:
    """The most rows of a data set that is not here; None where nothing bounds them."""
    return run.spec.data.max_rows if unknown and run.spec.data.mix is None else None


def _is_builtin(model: ModelSettings) -> bool:
    """Whether a model, or the base of an adapter, is the built-in one."""
    source = sources.model_source(model.name_or_path)
    bottom = sources.foundation(source) if source else None
    return bottom is not None and bottom.folder == MODEL_DIR


def _why_unpacked(run: ResolvedRun) -> str | None:
    return why_unpacked(run.shape, run.spec.model.attn_implementation, run.spec.method)


def _experts_left_out(run: ResolvedRun) -> list[str]:
    """The share of the parameters that all-linear does not reach in a mixture of experts."""
    reached, shape, peft = _reach(run), run.shape, run.peft
    if reached is None or shape is None or peft is None:
        return []
    total = num_parameters(shape) or 1
    if reached.read_itself:
        share = sum(module.num_parameters for module in reached.read_itself) / total
        names = " and ".join(dict.fromkeys(module.leaf for module in reached.read_itself))
        reads = "the layer around it reads the weight itself, where an adapter would do nothing or not fit"
        return [f"peft={peft.name} leaves out {names}, {share:.0%} of the parameters: {reads}"]
    stored = stays_quantised(run)
    left = reached.parameters if stored and reached.parameters else reached.left_out
    if not left:
        return []
    share = sum(module.num_parameters for module in left) / total
    why = why_no_experts(run.spec.peft) if peft.kind == "LORA" else None
    why = why or (
        f"they are stored quantised ({stored.name})" if stored else "PEFT adapts stacked parameters by plain LoRA only"
    )
    return [f"peft={peft.name} reaches no experts, which hold {share:.0%} of the parameters: {why}"]


def _reach(run: ResolvedRun) -> Reach | None:
    """What all-linear adapts in a mixture of experts; None for any other model or target."""
    shape, peft = run.shape, run.peft
    if shape is None or peft is None or not peft.adapter or not shape.known:
        return None
    stacked, renamed = peft.kind == "LORA", bool(renamed_by_peft(shape))
    return reach(modules(shape), run.spec.peft, renamed=renamed, stacked=stacked, model_type=shape.model_type)


def _few_steps(run: ResolvedRun, counted: TokenCount, blocks: int) -> list[str]:
    """The warning of a packed run that has few steps, each over many rows."""
    steps, rows = num_steps(run, blocks), round(run.batch.rows * counted.kept / blocks)
    if steps >= _FEW_STEPS or rows < _MANY_ROWS:
        return []
    rows = min(rows, counted.kept)
    fix = "lower train.gradient_accumulation_steps or the batch size, or set method.packing=false"
    return [f"only {steps} steps: with packing, each trains on about {rows} rows; for more, {fix}"]


def _long_warmup(run: ResolvedRun, steps: int) -> list[str]:
    """The warning of a warm-up that ends after the run, which then never reaches its learning rate."""
    warmup = train_value(run.spec.train, "warmup_steps")
    if run.spec.train.get("lr_scheduler_type") in WITHOUT_WARMUP or not warmup or warmup <= steps:
        return []
    what = f"train.warmup_steps={warmup:g} is more than the run's {steps} steps"
    return [f"{what}: the learning rate only reaches {steps / warmup:.0%} of train.learning_rate"]


def _flops(run: ResolvedRun, counted: TokenCount, sequences: int) -> float | None:
    each = operations_per_token(run.shape, base_trains=not run.trains_adapter) if run.shape else None
    if each is None or not counted.tokens or not sequences:
        return None
    tokens = counted.tokens / sequences + answer_tokens(run.spec, run.method)
    return each * tokens * num_steps(run, sequences) * run.batch.rows


def _why(run: ResolvedRun, note: Note, counted: TokenCount, sequences: int) -> str:
    """Why a value was derived; of the loss before training also how long it takes, where the held-out rows are counted.

    A pass without gradients takes a third of the time of one with them.
    """
    held_out = _sequences(run.spec, counted) - sequences
    if (note.key, note.value) != ("run.loss_before", True) or not run.spec.data.eval_share or held_out <= 0:
        return note.why
    steps = held_out / 3 / run.batch.rows
    took = f"about {steps:,.0f} training steps" if steps >= 1.5 else "one training step at most"
    return f"one pass over the held-out rows, as long as {took}"


def _lengths(run: ResolvedRun, counted: TokenCount) -> list[Mapping[str, Any]]:
    """The notes of the length limits that are derived from the rows."""
    found: list[Mapping[str, Any]] = []
    about = "" if counted.exact else "estimate: "
    if not isinstance(run.spec.data.max_length_tokens, int):
        found.append({"key": "data.max_length_tokens", "value": counted.max_length_tokens, "why": about + counted.why})
    if (longest := engine_length(run, counted)) is not None:
        why = "the longest prompt and the longest answer: vLLM holds a cache for no more"
        found.append({"key": "method.vllm_max_model_length", "value": longest, "why": about + why})
    return found


def counted_rows(run: ResolvedRun) -> TokenCount:
    """The rows and tokens of a run's training data; counted once, and remembered.

    Raises:
        DataError: a data file has no readable row.
    """
    limit = run.shape.max_position_embeddings if run.shape else None
    return count(run.spec.data, run.method, run.spec.model, tokenizer_folder(run.spec.model), limit)


def plan(run: ResolvedRun, *, stand_in: bool = False) -> Plan:
    """The plan of a checked run; reads the data files (a sample of those over 20 MB) but no weights.

    Args:
        stand_in: its rows are built-in ones in the place of those that a stage will make: nothing is said of them.

    Raises:
        DataError: a data file has no readable row.
        ConfigError: no training step would be left.
    """
    spec, method, shape = run.spec, run.method, run.shape
    counted = counted_rows(run)
    trainable = trainable_parameters(run)
    memory = run_memory(run, trainable, counted)
    sequences = _training_rows(spec, counted)
    if spec.train.get("dataloader_drop_last") and (not counted.exact or spec.data.eval_group):
        sequences = max(sequences, run.batch.rows_per_pass)  # an estimate refuses nothing: the run counts its rows
    parameters, steps = model_parameters(shape, method), num_steps(run, sequences)
    unknown = _not_here(run)
    most = _at_most(run, unknown)
    # Where rows are split, or packed, a bound of the rows is none of the steps.
    bounded = most is not None and spec.data.overflow != "split" and _steps_follow(run)
    return Plan(
        trainer=method.trainer.rpartition(":")[2],
        model=spec.model.name_or_path,
        device=spec.launch.device,
        num_processes=spec.launch.num_processes,
        global_batch=run.batch.rows,
        rows=counted.rows,
        rows_kept=counted.kept,
        blocks=sequences if spec.method.get("packing") else None,
        unrolled=counted.unrolled,
        unrolled_examples=counted.unrolled_examples,
        repeated_tokens=counted.repeated_tokens,
        steps=steps,
        tokens_per_epoch=counted.tokens,
        tokens_exact=counted.exact,
        parameters=parameters,
        trainable=trainable,
        flops=_flops(run, counted, sequences),
        memory=memory,
        disk=disk(run, trainable, counted.tokens, steps),
        warnings=tuple(_warnings(run, counted, sequences, stand_in)),
        notes=(
            *(
                {"key": note.key, "value": note.value, "why": _why(run, note, counted, sequences)}
                for note in spec.notes
            ),
            *_lengths(run, counted),
        ),
        rows_unknown=unknown,
        rows_at_most=most,
        steps_unknown=bool(unknown) and _steps_follow(run),
        steps_at_most=num_steps(run, most) if bounded and most is not None else None,
    )
