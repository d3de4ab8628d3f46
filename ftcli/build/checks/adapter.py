"""Checks of the adapter and of the base model's quantisation, made before anything is loaded."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted.bounded_pattern import bounded
from ftcli.launch import profile
from ftcli.models import sources
from ftcli.models.modules import modules
from ftcli.models.shape import Shape
from ftcli.models.stored_quantisation import StoredQuantisation, stored_quantisation
from ftcli.peft_methods import PeftMethod, why_unmerged
from ftcli.peft_methods.target_modules import ends_with, listing, saved_modules
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.run_spec import RunSpec
from ftcli.settings.sharding import FSDP, mapping_of, sharding

Where = Callable[[str], str]
Settings = Mapping[str, Any]

# The lowest compute capability that bitsandbytes supports: Turing for int8, Pascal for 4 bits.
_OLDEST = {"int8": (7, 5), "nf4": (6, 0), "nf4_double": (6, 0), "fp4": (6, 0)}
_COPIES = "hardware=multi_gpu holds a copy on each GPU"


def problems(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """The problems of a run's adapter and quantisation."""
    spec, peft = run.spec, run.peft
    yield from settings_problems(run, where)
    if peft is not None:
        yield from _misuse(spec, peft, where)
        yield from _rows_before(run, peft, where)
    yield from _quantised(spec, peft, where)
    yield from _stored(spec, peft, where)
    yield from _sharded(spec, where)
    yield from _never_sharded(spec, peft, where)
    yield from _stacked(spec, where)


def settings_problems(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """What is wrong with an adapter's settings, on the model that it is for."""
    peft = run.peft
    if peft is None:
        return
    own = peft.check(run.spec.peft) if peft.check else []
    yield from (replace(problem, where=where(problem.where) or problem.where) for problem in own)
    if not own:
        yield from _targets(run.spec, peft, run.shape, where)


def _targets(spec: RunSpec, peft: PeftMethod, shape: Shape | None, where: Where) -> Iterator[Problem]:
    """Target modules exist, can carry the adapter, and exclude the output head.

    The loss is fused with the output head: it reads the head's weight directly and never calls the module, so an
    adapter on it would get no gradient.
    """
    if _reaches_head(spec.peft):
        what = "peft.target_modules includes lm_head, but the fused loss bypasses an adapter on it"
        fix = "exclude it; to train the whole head use peft.modules_to_save=[lm_head]"
        yield Problem(where("peft.target_modules"), what, fix)
        return
    if shape is None or not shape.known:
        return
    if peft.kind == "TRAINABLE_TOKENS" and shape.tie_word_embeddings:
        what = "the output head shares the embedding's weight, and its fused loss bypasses tokens trained there"
        yield Problem(where("peft"), what, "use a model with untied embeddings, or another adapter")
        return
    try:
        _count(peft, shape, spec.peft)
    except ValueError as error:
        place = where(f"peft.{_at_fault(peft, shape, spec.peft)}")
        listed = listing(shape) in str(error)
        fix = "name modules that the model has" if listed else "correct it, or choose another peft="
        yield Problem(place, f"peft={peft.name}: {error}", fix)
        return
    saved = [str(name).rpartition(".")[2] for name in spec.peft.get("modules_to_save") or ()]
    tied = sorted({"lm_head", "embed_tokens"} & set(saved))
    if shape.tie_word_embeddings and tied and not spec.peft.get("ensure_weight_tying"):
        names = ", ".join(tied)
        what = f"peft.modules_to_save=[{names}] would untie the embedding and the head, which share one weight"
        fix = "add peft.ensure_weight_tying=true" if "ensure_weight_tying" in peft.fields() else "remove it"
        yield Problem(where("peft.modules_to_save"), what, fix)


def _reaches_head(settings: Settings) -> bool:
    """Whether the target modules, a list of names or one pattern, include the output head."""
    targets = settings.get("target_modules")
    if not isinstance(targets, str):
        return isinstance(targets, list) and "lm_head" in targets
    try:
        return bounded(targets).fullmatch("lm_head") is not None
    except ValueError:  # reported below, with the modules that the model has
        return False


def _count(peft: PeftMethod, shape: Shape, settings: Settings) -> None:
    """Check that the model has every module that the settings name.

    Raises:
        ValueError: a module is missing, or cannot carry the adapter.
    """
    if peft.count(shape, settings) is not None:
        return
    # This tuner has no count, so no name has been looked up yet.
    names = {module.name for module in modules(shape)}
    names |= {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
    targets = settings.get("target_modules") or ()
    for target in targets if isinstance(targets, list) else ():
        if not any(ends_with(name, [str(target)]) for name in names):
            raise ValueError(f"{target!r} names no module; " + listing(shape))
    pattern = bounded(targets) if isinstance(targets, str) and targets.lower() != "all-linear" else None
    if pattern and not any(pattern.fullmatch(name) for name in names):
        raise ValueError(f"{targets!r} matches no whole module name; " + listing(shape))
    saved_modules(shape, settings.get("modules_to_save") or ())


def _at_fault(peft: PeftMethod, shape: Shape, settings: Settings) -> str:
    """The faulty setting: the one whose removal resolves the error, else the target modules."""
    for name in ("modules_to_save", "modules", "exclude_modules", "rank_pattern", "layers_to_transform", "num_layers"):
        if settings.get(name) is None:
            continue
        with contextlib.suppress(ValueError):
            _count(peft, shape, {**settings, name: None})
            return name
    return "target_modules"


def _misuse(spec: RunSpec, peft: PeftMethod, where: Where) -> Iterator[Problem]:
    """Packing, gradient checkpointing and random weights, with adapters that do not work with them."""
    if peft.adapter and spec.model.init == "random":
        what = f"peft={peft.name} with model.init=random could not be loaded again: the base weights are not saved"
        yield Problem(where("model.init"), what, "model.init=pretrained, or peft=none")
    if peft.never_packs and spec.method.get("packing"):
        what = f"method.packing=true with peft={peft.name}: {peft.never_packs}"
        yield Problem(where("method.packing"), what, "set method.packing=false")
    if peft.never_checkpoints and spec.train.get("gradient_checkpointing"):
        what = f"train.gradient_checkpointing=true with peft={peft.name}: {peft.never_checkpoints}"
        yield Problem(where("train.gradient_checkpointing"), what, "set train.gradient_checkpointing=false")


def _rows_before(run: ResolvedRun, peft: PeftMethod, where: Where) -> Iterator[Problem]:
    """An initialisation that looks at training rows needs rows, and the whole model in one process."""
    if not peft.looks_at(run.spec.peft):
        return
    start, place = run.spec.peft.get("init_lora_weights"), where("peft.init_lora_weights")
    if run.method.samples:
        what = f"peft.init_lora_weights={start} looks at trained answers before the run, and method={run.method.name}"
        yield Problem(place, f"{what} samples its answers during it", "remove it, or start from a run of method=sft")
    for name in ("fsdp", "deepspeed"):
        if run.spec.train.get(name):
            what = f"peft.init_lora_weights={start} needs the whole model in each process, which train.{name} shards"
            yield Problem(place, what, f"remove train.{name}, or choose another initialisation")
            return


def _quantised(spec: RunSpec, peft: PeftMethod | None, where: Where) -> Iterator[Problem]:
    """Quantised weights are frozen, and not every tuner or device supports them."""
    kind, place = spec.quantisation.type, where("quantisation")
    if peft is not None and peft.quantisations is not None and kind not in peft.quantisations:
        choices = ", ".join(f"quantisation={name}" for name in peft.quantisations)
        what, fix = f"peft={peft.name} needs a 4-bit base model, not quantisation={kind}", f"{choices}, or peft=lora"
        if not peft.adapter:
            what = f"peft={peft.name} trains base weights, which quantisation={kind} freezes"
            fix = "quantisation=none, or peft=qlora"
        yield Problem(place, what, fix)
        return
    if kind == "none":
        unquantised = peft is not None and stored_quantisation(spec.model) is None
        if peft is not None and unquantised and (reason := peft.refuses(kind, spec.peft)) is not None:
            yield Problem(place, f"quantisation=none with peft={peft.name}: {reason}", "quantisation=nf4_double")
        return
    if peft is None:
        what = f"quantisation={kind} with peft=none: quantised weights cannot be trained"
        yield Problem(place, what, "choose peft=qlora, or quantisation=none")
    elif (reason := peft.refuses(kind, spec.peft)) is not None:
        yield Problem(place, f"quantisation={kind} with peft={peft.name}: {reason}", "quantisation=none, or peft=lora")
    if importlib.util.find_spec("bitsandbytes") is None:
        yield Problem(place, f"quantisation={kind} needs the package bitsandbytes", "pip install bitsandbytes")
    if spec.launch.device == "cuda":
        for gpu in profile.cards(spec.launch):
            if gpu.capability < _OLDEST[kind]:
                need, has = (".".join(map(str, version)) for version in (_OLDEST[kind], gpu.capability))
                what = f"quantisation={kind} needs compute capability {need}; {gpu.name} has {has}"
                yield Problem(place, what, "quantisation=nf4_double" if kind == "int8" else "quantisation=none")
                return


def _sharder(layout: str | None) -> str:
    """The setting by which a layout is asked for."""
    return "train.fsdp" if layout == FSDP else "train.deepspeed"


def _never_sharded(spec: RunSpec, peft: PeftMethod | None, where: Where) -> Iterator[Problem]:
    """An adapter that does not train in a model that is sharded as this run's is."""
    layout = sharding(spec.train)
    if peft is None or layout is None or not (why := peft.never_shards(layout, spec.peft)):
        return
    yield Problem(where("peft"), f"peft={peft.name} with {_sharder(layout)}: {why}", _COPIES)


def _sharded(spec: RunSpec, where: Where) -> Iterator[Problem]:
    """Quantised weights that each process would hold whole, although the run shards its weights.

    4-bit weights of bitsandbytes are sharded where their bytes are held as the type that is computed in.
    """
    held_as = spec.shard_dtype
    if held_as is None:
        return
    layout = sharding(spec.train)
    stored = stored_quantisation(spec.model)
    kind = stored.as_ours if stored is not None and stored.stays else spec.quantisation.type
    if kind == "none":
        return
    key = _sharder(layout)
    whole = f"with {key} each process would hold all of the quantised weights"
    copies = f"remove {key}: {_COPIES}"
    place = where("quantisation" if spec.quantisation.type != "none" else "model.name_or_path")
    if kind == "int8":
        what = f"{whole}: 8-bit layers keep them and their scales beside the parameters, which alone are sharded"
        yield Problem(place, what, f"use quantisation=nf4_double, or {copies}")
    elif stored is not None and stored.stays:
        declared = str(stored.declared.get("bnb_4bit_quant_storage") or "uint8").removeprefix("torch.")
        if kind not in _OLDEST or declared != held_as:
            what = f"{spec.model.name_or_path} is stored quantised ({stored.name}), and {whole}"
            yield Problem(place, what, f"name the model that it was made from with peft=qlora, or {copies}")
    elif layout == FSDP and mapping_of(spec.train.get("fsdp_config")).get("version") == 1:
        what = "version 1 of FSDP shards weights of one type only, and an adapter on 4-bit weights has its own"
        yield Problem(where("train.fsdp_config"), what, "leave the version out: 2 is the default")


def _stored(spec: RunSpec, peft: PeftMethod | None, where: Where) -> Iterator[Problem]:
    """A base that is stored quantised is not quantised again; it trains through an adapter only where it stays so."""
    stored = stored_quantisation(spec.model)
    if stored is None:
        return
    model, kind = spec.model.name_or_path, spec.quantisation.type
    place, name = where("model.name_or_path"), f"{model} is quantised ({stored.name})"
    if kind != "none":
        what = f"{model} is already quantised ({stored.name}); quantisation={kind} would quantise it again"
        # A PEFT method that needs one of our quantisations would reject `none`.
        defined = peft is not None and peft.quantisations is not None
        fix = "quantisation=none peft=lora" if defined else "quantisation=none"
        yield Problem(where("quantisation"), what, fix)
    about = stored.format
    reason = about.refuses(stored.declared) if about else "the installed transformers does not know this format"
    if about is None or reason:
        yield Problem(place, f"{name}: {reason}", "name the model that it was made from; quantisation=nf4 saves memory")
        return
    if stored.stays:
        yield from _stays_stored(spec, peft, stored, name, place)
    for package in about.packages:
        if not is_installed(package):
            what = f"{name} and needs the package {package}, which is not installed"
            yield Problem(place, what, f"pip install {package.replace('_', '-').replace('.', '-')}")


def is_installed(package: str) -> bool:
    """Whether a package is installed, checked without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False


def _stays_stored(
    spec: RunSpec, peft: PeftMethod | None, stored: StoredQuantisation, name: str, place: str
) -> Iterator[Problem]:
    """What quantised layers rule out."""
    if peft is None or not peft.adapter:
        what = f"{name}, and quantised weights cannot be trained"
        yield Problem(place, what, "choose peft=lora, or a model that is not quantised")
    elif (reason := peft.refuses(stored.as_ours, spec.peft)) is not None:
        yield Problem(place, f"{name}; peft={peft.name}: {reason}", "choose peft=lora")
    if stored.format and stored.format.gpu and spec.launch.device != "cuda":
        what = f"{name}: {stored.format.gpu}"
        yield Problem(place, what, "run it on a GPU, or name the model that it was made from")


def _stacked(spec: RunSpec, where: Where) -> Iterator[Problem]:
    """A run that starts from an adapter merges it first, which some adapters do not allow."""
    source = sources.model_source(spec.model.name_or_path)
    try:
        kinds = sources.adapter_kinds(source) if source else []
    except ConfigError:  # reported by the rule that looks for the model
        return
    stored = stored_quantisation(spec.model) if kinds else None
    if stored is not None and stored.stays:
        name = f"{spec.model.name_or_path} has an adapter on a model that is stored quantised ({stored.name})"
        what = f"{name}, and a new run would merge it, which rounds the merged weights again"
        yield Problem(where("model.name_or_path"), what, "start from its base model")
        return
    for kind in kinds:
        if reason := why_unmerged(kind):
            what = f"{spec.model.name_or_path} contains a {kind} adapter, which a new run would have to merge: {reason}"
            yield Problem(
                where("model.name_or_path"), what, "start from its base model, or train another type of adapter"
            )
