"""Rules across groups: do method, adapter, data and hardware fit together. Each reports problems, changes nothing."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ftcli.build.checks import adapter, cadence, data, field_checks, rendering, trainer_rules
from ftcli.config.compose import WRITERS, Composed
from ftcli.core import paths
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.suggest import suggest
from ftcli.launch.profile import cards
from ftcli.methods import Method
from ftcli.methods.method import further_models
from ftcli.models import sources
from ftcli.models.attention_kernels import FLASH, HUB
from ftcli.models.known_shapes import model_shape, why_no_causal_lm
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings import library_fields, ownership, tracker_problems
from ftcli.settings.backends import WITHOUT_MODEL, unread
from ftcli.settings.groups import HALF_PRECISION, as_saved
from ftcli.settings.limits import OF_BACKEND
from ftcli.settings.run_spec import RunSpec
from ftcli.synthesis.backend import backend_problems

COMPENSATED = ("stable_adamw",)
"""Optimisers of transformers that add up what rounding to bfloat16 loses (Kahan summation)."""
SLOWEST_BFLOAT16 = 4e-5
"""The learning rate below which Adam's steps are less than half the distance between two numbers in bfloat16, for a
weight of 0.02: 2⁻⁹ of it."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a rule checks."""

    run: ResolvedRun
    composed: Composed

    @property
    def spec(self) -> RunSpec:
        """The run's spec."""
        return self.run.spec

    @property
    def method(self) -> Method:
        """The run's method."""
        return self.run.method

    def where(self, dotted: str) -> str:
        """The place of a setting."""
        return self.composed.where(*dotted.split("."))


Rule = Callable[[Context], Iterator[Problem]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Register a rule."""
    RULES.append(function)
    return function


@rule
def the_method_agrees_with_itself(context: Context) -> Iterator[Problem]:
    """The method's own rules for its options."""
    for problem in context.method.check(context.spec.method) if context.method.check else ():
        yield Problem(context.where(problem.where) or problem.where, problem.what, problem.fix)


@rule
def run_name_is_a_folder_name(context: Context) -> Iterator[Problem]:
    """`run.name` becomes a folder under runs/."""
    yield from name_problems(str(context.spec.run.name), context.where("run.name"))


def name_problems(name: str, where: str) -> list[Problem]:
    """The problem of a run's name that could lead out of runs/, or would be awkward to type."""
    if re.fullmatch(r"\w[\w.-]*", name) and len(name) <= 100:
        return []
    return [Problem(where, f"run.name={name} is not a plain name", "use letters, digits, dots, dashes and underscores")]


@rule
def precision_is_one(context: Context) -> Iterator[Problem]:
    """bf16 and fp16 exclude each other, and fp16 needs a GPU."""
    train = context.spec.train
    if train.get("bf16") and train.get("fp16"):
        yield Problem(context.where("train.fp16"), "train.bf16 and train.fp16 are both on", "keep one of them")
    elif train.get("fp16") and context.spec.launch.device == "cpu":
        yield Problem(context.where("train.fp16"), "train.fp16 needs a GPU", "remove it; the CPU computes in float32")


@rule
def the_cadence_fits(context: Context) -> Iterator[Problem]:
    """When a run warms up, logs, evaluates, saves and stops."""
    yield from cadence.problems(context.run, context.composed, context.where)


@rule
def half_precision_learns(context: Context) -> Iterator[Problem]:
    """Weights that are trained in half precision alone need an optimiser that keeps what rounding loses."""
    spec, where = context.spec, context.where("model.dtype")
    kept_elsewhere = spec.holds_masters or spec.train.get("deepspeed")
    if context.run.trains_adapter or spec.model.dtype not in HALF_PRECISION or kept_elsewhere:
        return
    masters = "leave model.dtype and train.bf16 out: what trains is then held in float32"
    if spec.model.dtype == "float16":
        yield Problem(where, "weights in float16 cannot be trained: the optimiser's second moment underflows", masters)
        return
    rate = spec.train.get("learning_rate")
    compensated = spec.train.get("optim") in COMPENSATED
    if not compensated and isinstance(rate, int | float) and rate < SLOWEST_BFLOAT16:
        what = f"at a learning rate of {rate:g} hardly a weight in bfloat16 moves: updates are lost in rounding"
        yield Problem(
            where, what, f"{masters}; or keep them with train.optim={COMPENSATED[0]} (pip install torch-optimi)"
        )


@rule
def the_trainer_takes_the_settings(context: Context) -> Iterator[Problem]:
    """What the trainer would refuse, ignore or fail on at its first use."""
    yield from trainer_rules.problems(context.run, context.composed, context.where)


@rule
def near_duplicates_can_be_found(context: Context) -> Iterator[Problem]:
    """They are found among all rows, by a library of its own."""
    if context.spec.data.near_duplicates is None:
        return
    where = context.where("data.near_duplicates")
    if context.spec.data.streaming:
        yield Problem(where, "data.near_duplicates compares all rows, and a stream is read only once", "remove it")
    if importlib.util.find_spec("rensa") is None:
        what = "data.near_duplicates needs the package rensa, which is not installed"
        yield Problem(where, what, "pip install 'ftcli[near-duplicates]'")


@rule
def answers_stay_whole(context: Context) -> Iterator[Problem]:
    """Preferences compare whole answers."""
    if context.spec.data.overflow == "split" and context.method.task == "preference":
        what = f"data.overflow=split would split the answers that {context.method.name} compares"
        yield Problem(context.where("data.overflow"), what, "use data.overflow=drop, error or truncate_right")


@rule
def batches_are_large_enough(context: Context) -> Iterator[Problem]:
    """Some methods compare the rows of a batch with each other."""
    method, size = context.method, context.run.batch.per_device
    if size < method.min_batch:
        what = f"{method.name} compares rows within a batch; train.per_device_train_batch_size={size} is too small"
        fix = f"set it to {method.min_batch} or more"
        yield Problem(context.where("train.per_device_train_batch_size"), what, fix)


@rule
def further_models_fit(context: Context) -> Iterator[Problem]:
    """A reward model, teacher or reference is there, and has the head and the vocabulary that it must have."""
    spec, stage = context.spec, context.composed.request.stage
    for key, name, head in further_models(spec.method):
        if stage is not None and f"method.{key.partition('.')[0]}" in stage.promised:
            continue  # an earlier stage has yet to train it
        yield from _wrong_head(name, head, context.where(f"method.{key}"))
    for key in ("teacher_model", "reference_model"):
        if named := spec.method.get(key):
            yield from _other_vocabulary(key, str(named), context)


@rule
def answers_can_be_sampled(context: Context) -> Iterator[Problem]:
    """A method that samples needs a finite set of prompts, and whole groups per batch."""
    spec = context.spec
    if not context.method.samples:
        return
    if spec.data.streaming:
        what = f"{context.method.name} samples from the whole set of prompts, and a stream has no known length"
        yield Problem(context.where("data.streaming"), what, "set data.streaming=false")
    group = spec.method.get("num_generations")
    size = context.run.batch.answers_per_generation(spec.method)
    if group and size % int(group):
        what = f"{size} answers per generation batch do not divide into groups of method.num_generations={group}"
        fix = "make train.per_device_train_batch_size a multiple of it"
        yield Problem(context.where("method.num_generations"), what, fix)


@rule
def the_judge_is_configured(context: Context) -> Iterator[Problem]:
    """A judge that gives rewards has valid backend settings, and its principles can be read."""
    judge, constitution = (context.spec.method.get(name) for name in ("judge", "judge_constitution"))
    if judge is None:
        return
    key = context.where("method.judge")
    if not isinstance(judge, Mapping):
        yield Problem(key, f"method.judge is {judge!r}, which is not a mapping", "write method.judge={model: RUN}")
        return
    known = library_fields.fields_of("ftcli.settings.backends:BackendSettings")
    for name, value in judge.items():
        if name not in known:
            yield Problem(key, f"method.judge.{name} is not a backend setting", suggest(name, known, "method.judge."))
        elif problem := field_checks.type_problem(
            f"method.judge.{name}", value, known[name], None, key
        ) or field_checks.limit_problem(f"method.judge.{name}", value, OF_BACKEND.get(name), key):
            yield problem
        elif why := _unread(context, name, judge):
            yield Problem(context.where(f"method.judge.{name}"), f"method.judge.{name} {why[0]}", why[1])
    if not judge:
        yield Problem(key, "method.judge={} has no effect: it names no model", "name one with method.judge.model")
    elif judge.get("type", "local") not in WITHOUT_MODEL and not judge.get("model"):
        yield Problem(key, "method.judge has no model", "name a run or model with method.judge.model")
    yield from backend_problems(judge, "method.judge", key)
    if constitution:
        yield from _principle_problems(str(constitution), context.where("method.judge_constitution"))


def _unread(context: Context, name: str, judge: Mapping[str, object]) -> tuple[str, str] | None:
    """Why a setting of a run's judge has no effect; None where it has one, or a saved run or a recipe that the command
    line overrides has it."""
    if judge[name] is None:
        return None
    layer, of_type = (context.composed.layer("method", "judge", each) for each in (name, "type"))
    written = layer >= WRITERS.index("recipe") and (of_type <= layer or "type" not in judge)
    return unread(name, str(judge.get("type", "local")), "method.judge") if written else None


def _principle_problems(name: str, where: str) -> Iterator[Problem]:
    if not paths.is_builtin(name) and not Path(name).is_file():
        yield Problem(where, f"{name} does not exist", "name a YAML file with principles")
        return
    from ftcli.synthesis import principles  # only here: most runs have no judge

    try:
        principles.named(name)
    except ConfigError as error:
        yield from error.problems


def _wrong_head(name: str, head: str, where: str) -> Iterator[Problem]:
    """The problem of a further model that is missing or has the wrong head."""
    source, scores = sources.model_source(name), head == "reward_model"
    if source is None:
        fix = "name a finished run of method=reward, or a model folder" if scores else "name a run or a model folder"
        yield Problem(where, f"{name} holds no model", fix)
    elif not source.is_plausible:
        yield Problem(where, f"{name} is neither a folder nor a hub id", "a hub id is ORGANISATION/NAME")
    elif source.folder is not None and sources.head_of(source.folder) != head:
        what = f"{name} is a causal LM, not a reward model" if scores else f"{name} is a reward model, not a causal LM"
        yield Problem(where, what, "name a model that method=reward trained" if scores else "name a causal LM")


def _other_vocabulary(key: str, name: str, context: Context) -> Iterator[Problem]:
    """The problem of a teacher or reference whose vocabulary has another size than that of the model that trains."""
    theirs = model_shape(as_saved(context.spec.model, name))
    if context.run.shape is None or theirs is None or theirs.vocab_size == context.run.shape.vocab_size:
        return
    mine = "the student" if key == "teacher_model" else "the model that trains"
    what = f"{name} has a vocabulary of {theirs.vocab_size} tokens, {mine} {context.run.shape.vocab_size}"
    fix = "choose a teacher of the student's model family" if key == "teacher_model" else "choose one of its family"
    yield Problem(context.where(f"method.{key}"), what, fix)


@rule
def the_loss_sees_the_adapter(context: Context) -> Iterator[Problem]:
    """A loss that calls the layers directly bypasses the vectors that an adapter puts before the input."""
    peft = context.run.peft
    if context.method.below_the_adapter and peft is not None and "num_virtual_tokens" in peft.fields():
        what = f"peft={peft.name} puts vectors before the input, which the loss of {context.method.name} bypasses"
        yield Problem(context.where("peft"), what, "use peft=lora")


@rule
def trackers_are_there(context: Context) -> Iterator[Problem]:
    """Who keeps or is sent the curve is known, installed, and named once; settings of trackers have an effect."""
    run, report_to = context.spec.run, context.spec.train.get("report_to")
    yield from tracker_problems.problems(run.trackers, run.tracking, report_to, context.where)
    yield from tracker_problems.reporter_problems(report_to, context.where)


@rule
def references_fit_the_adapter(context: Context) -> Iterator[Problem]:
    """A reference that follows the policy needs its own copy, which an adapter run does not hold."""
    method, peft = context.spec.method, context.run.peft
    if method.get("sync_ref_model") and peft is not None and peft.adapter:
        what = "method.sync_ref_model needs a separate reference; with an adapter the reference is the base model"
        yield Problem(context.where("method.sync_ref_model"), what, "use peft=none, or remove it")
    if method.get("sync_ref_model") and method.get("precompute_ref_log_probs"):
        what = "method.precompute_ref_log_probs fixes the reference that method.sync_ref_model updates"
        yield Problem(context.where("method.sync_ref_model"), what, "keep one of them")
    if method.get("precompute_ref_log_probs") and context.spec.data.streaming and "reference" in context.method.roles:
        what = "method.precompute_ref_log_probs reads every row before training, and a stream has no known length"
        yield Problem(context.where("method.precompute_ref_log_probs"), what, "remove it, or set data.streaming=false")


@rule
def the_adapter_fits(context: Context) -> Iterator[Problem]:
    """The adapter finds its modules, and works with packing, checkpointing, the quantisation and the base model."""
    yield from adapter.problems(context.run, context.where)


@rule
def the_model_is_a_causal_lm(context: Context) -> Iterator[Problem]:
    """transformers can build a causal LM of the model's type; a multimodal one is taken as the text model inside it."""
    if context.method.head == "causal_lm" and (reason := why_no_causal_lm(context.spec.model)):
        what = f"{context.spec.model.name_or_path}: {reason}"
        yield Problem(
            context.where("model.name_or_path"), what, "choose a model that generates text (ftcli list model)"
        )


def _newer(context: Context, key: str) -> bool:
    """Whether a setting of the model was set with its name or later, and so for it."""
    return context.composed.layer("model", key) >= context.composed.layer("model", "name_or_path")


@rule
def the_model_is_there(context: Context) -> Iterator[Problem]:
    """A local model is a folder with a config.json or an adapter; a hub id looks like one."""
    name, where = context.spec.model.name_or_path, context.where("model.name_or_path")
    source = sources.model_source(name)
    if source is None:
        what = f"{name} holds no model: no config.json and no adapter_config.json"
        yield Problem(where, what, "name a Hugging Face model folder, a finished ftcli run, or a hub id")
    elif not source.is_plausible:
        yield Problem(where, f"{name} is neither a folder nor a hub id", "a hub id is ORGANISATION/NAME")
    elif source.folder is not None and _newer(context, "revision") and context.spec.model.revision is not None:
        yield Problem(
            context.where("model.revision"), f"model.revision does not apply to the folder {name}", "remove it"
        )
    elif sources.foundation(source) is None:
        what = f"{name} is an adapter whose base model is missing"
        yield Problem(where, what, "restore the folder that adapter_config.json names as base_model_name_or_path")
    elif (
        source.folder is not None
        and context.method.head == "causal_lm"
        and sources.head_of(source.folder) == "reward_model"
    ):
        what = f"{name} is a reward model, and method={context.method.name} needs a causal LM"
        yield Problem(where, what, "name a causal LM, or choose method=reward")


@rule
def attention_fits_the_architecture(context: Context) -> Iterator[Problem]:
    """Some architectures do not support torch's fused attention."""
    if (
        context.spec.model.attn_implementation == "sdpa"
        and context.run.shape is not None
        and not context.run.shape.supports_sdpa
    ):
        what = f"{context.run.shape.architecture} does not support model.attn_implementation=sdpa"
        yield Problem(context.where("model.attn_implementation"), what, "use model.attn_implementation=auto")


@rule
def the_attention_kernel_is_there(context: Context) -> Iterator[Problem]:
    """Flash attention comes in packages; where one is missing, transformers would take code from the hub instead."""
    name = context.spec.model.attn_implementation
    kernel, where = FLASH.get(name), context.where("model.attn_implementation")
    if kernel is None:
        return
    if context.spec.launch.device != "cuda":
        what = f"model.attn_implementation={name} runs on a GPU, and this run computes on a CPU"
        yield Problem(where, what, "use model.attn_implementation=auto")
        return
    if context.spec.compute_dtype == "float32":
        what = f"model.attn_implementation={name} computes in bfloat16 or float16, and this run in float32"
        yield Problem(where, what, "use model.attn_implementation=auto, or train.bf16=true")
        return
    slow = [card for card in cards(context.spec.launch) if not kernel.runs_on(card)]
    if slow:
        has = ".".join(map(str, slow[0].capability))
        what = f"model.attn_implementation={name} does not run on {slow[0].name} (compute capability {has})"
        yield Problem(where, what, "use model.attn_implementation=auto")
    elif not kernel.is_installed and context.spec.hardware.gpu is None:
        what = f"model.attn_implementation={name} needs the package {kernel.distribution}, which is not installed"
        hub = f"model.attn_implementation={HUB}… with {ownership.REMOTE_CODE} takes its code from the hub"
        yield Problem(where, what, f"pip install {kernel.distribution}, or leave it out; {hub}")


@rule
def conversations_can_be_rendered(context: Context) -> Iterator[Problem]:
    """There is a chat template where rows are turns; it renders, and its tokens are in the vocabulary."""
    yield from rendering.problems(context.run, context.composed, context.where)


@rule
def the_data_can_be_read(context: Context) -> Iterator[Problem]:
    """The files exist, their first rows have a known format, and the shares of a mix add up."""
    yield from data.problems(context.spec.data, context.method, context.composed)


def check(run: ResolvedRun, composed: Composed) -> list[Problem]:
    """The problems that all rules report."""
    context = Context(run=run, composed=composed)
    return [problem for each in RULES for problem in each(context)]
