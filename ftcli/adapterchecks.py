"""Rules about the adapter and the quantisation of the base, told before anything is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace

from ftcli import hardware, sources
from ftcli.errors import ConfigError, Problem
from ftcli.methods import Method
from ftcli.peft_methods import PeftMethod, peft_method, why_unmerged
from ftcli.shapes import Shape
from ftcli.spec import RunSpec

Where = Callable[[str], str]

# How a base quantised already is stored, and the package whose kernels it computes with.
KERNELS = {
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "fp8": "triton",
    "fbgemm_fp8": "fbgemm_gpu",
    "compressed-tensors": "compressed_tensors",
    "mxfp4": "kernels",
    "hqq": "hqq",
    "torchao": "torchao",
    "eetq": "eetq",
    "aqlm": "aqlm",
    "quanto": "optimum.quanto",
}
# The oldest compute capability that bitsandbytes multiplies in: Turing for int8, Pascal for 4 bits.
_OLDEST = {"int8": (7, 5), "nf4": (6, 0), "nf4_double": (6, 0), "fp4": (6, 0)}


def problems(spec: RunSpec, method: Method, shape: Shape | None, where: Where) -> Iterator[Problem]:
    """Everything that is wrong with the adapter and the quantisation of a run."""
    peft = peft_method(spec.peft)
    if peft is not None:
        for problem in peft.check(spec.peft) if peft.check else ():
            yield replace(problem, where=where(problem.where) or problem.where)
        yield from _targets(spec, peft, shape, where)
        yield from _misuse(spec, peft, where)
    yield from _quantised(spec, peft, where)
    yield from _stored(spec, peft, where)
    yield from _stacked(spec, where)


def _targets(spec: RunSpec, peft: PeftMethod, shape: Shape | None, where: Where) -> Iterator[Problem]:
    """Target modules are there, can carry the adapter, and are not the output head, whose loss is fused."""
    targets = spec.peft.get("target_modules")
    place = where("peft.target_modules")
    if targets == "lm_head" or (isinstance(targets, list) and "lm_head" in targets):
        what = "peft.target_modules names lm_head, whose loss is fused and would never reach the adapter"
        yield Problem(place, what, "remove it; to train the head whole use peft.modules_to_save=[lm_head]")
        return
    if shape is None or not shape.known:
        return
    try:
        peft.count(shape, spec.peft)
    except ValueError as error:
        yield Problem(place, f"peft={peft.name}: {error}", "name modules that the model has")
    saved = [str(name).rpartition(".")[2] for name in spec.peft.get("modules_to_save") or ()]
    tied = {"lm_head", "embed_tokens"} & set(saved)
    if shape.tie_word_embeddings and tied and not spec.peft.get("ensure_weight_tying"):
        what = f"peft.modules_to_save={sorted(tied)} would part the embedding from the head, which share one weight"
        fix = "add peft.ensure_weight_tying=true" if "ensure_weight_tying" in peft.fields() else "remove it"
        yield Problem(where("peft.modules_to_save"), what, fix)


def _misuse(spec: RunSpec, peft: PeftMethod, where: Where) -> Iterator[Problem]:
    """Packing and gradient checkpointing with what they break."""
    for key in ("packing", "padding_free"):
        if peft.never_packs and spec.method.get(key):
            what = f"method.{key}=true with peft={peft.name}: {peft.never_packs}"
            yield Problem(where(f"method.{key}"), what, f"set method.{key}=false")
    if peft.never_checkpoints and spec.train.get("gradient_checkpointing"):
        what = f"train.gradient_checkpointing=true with peft={peft.name}: {peft.never_checkpoints}"
        yield Problem(where("train.gradient_checkpointing"), what, "set train.gradient_checkpointing=false")


def _quantised(spec: RunSpec, peft: PeftMethod | None, where: Where) -> Iterator[Problem]:
    """Quantised weights are frozen, and not every tuner or device takes them."""
    kind, place = spec.quantisation.type, where("quantisation")
    if peft is not None and peft.quantisations is not None and kind not in peft.quantisations:
        choices = " or ".join(f"quantisation={name}" for name in peft.quantisations)
        what = f"peft={peft.name} needs a base in 4 bits; quantisation={kind} is none"
        if not peft.adapter:
            what = f"peft={peft.name} trains weights of the base, which quantisation={kind} freezes in few bits"
        fix = choices if peft.adapter else "quantisation=none, or peft=qlora"
        yield Problem(place, what, fix if kind != "none" else f"{fix}, or choose peft=lora")
        return
    if kind == "none":
        return
    if peft is None:
        what = f"quantisation={kind} with peft=none: weights in few bits cannot be trained"
        yield Problem(place, what, "choose peft=qlora, or quantisation=none")
    elif (reason := peft.refuses(kind, spec.peft)) is not None:
        yield Problem(place, f"quantisation={kind} with peft={peft.name}: {reason}", "quantisation=none, or peft=lora")
    if spec.model.init == "random":
        what = f"quantisation={kind} with model.init=random: random weights are not loaded, so nothing is quantised"
        yield Problem(place, what, "model.init=pretrained, or quantisation=none")
    if importlib.util.find_spec("bitsandbytes") is None:
        yield Problem(place, f"quantisation={kind} needs the package bitsandbytes", "pip install bitsandbytes")
    if spec.launch.device == "cuda":
        for gpu in hardware.gpus():
            if gpu.capability < _OLDEST[kind]:
                need = ".".join(map(str, _OLDEST[kind]))
                what = f"quantisation={kind} needs compute capability {need}; {gpu.name} has {gpu.capability}"
                yield Problem(place, what, "quantisation=nf4_double" if kind == "int8" else "quantisation=none")
                return


def _stored(spec: RunSpec, peft: PeftMethod | None, where: Where) -> Iterator[Problem]:
    """A base that is quantised already is quantised once, trained through an adapter, and needs its kernels."""
    stored = sources.quantised_as(spec.model)
    if stored is None:
        return
    place, name = where("model.name_or_path"), spec.model.name_or_path
    if spec.quantisation.type != "none":
        what = f"{name} is stored in {stored} already; quantisation={spec.quantisation.type} would do it again"
        yield Problem(where("quantisation"), what, "quantisation=none")
    if peft is None or not peft.adapter:
        what = f"{name} is stored in {stored}, and weights in few bits cannot be trained"
        yield Problem(place, what, "choose peft=lora, or a model that is not quantised")
    package = KERNELS.get(stored, stored)
    if not _installed(package):
        what = f"{name} is stored in {stored}, whose kernels are in the package {package}, which is not installed"
        yield Problem(place, what, f"pip install {package.replace('_', '-')}")


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False


def _stacked(spec: RunSpec, where: Where) -> Iterator[Problem]:
    """A run that starts from adapters has them merged, which some cannot be."""
    source = sources.model_source(spec.model.name_or_path)
    try:
        kinds = sources.adapter_kinds(source) if source else []
    except ConfigError:  # told by the rule that looks for the model
        return
    for kind in kinds:
        if reason := why_unmerged(kind):
            what = (
                f"{spec.model.name_or_path} holds a {kind} adapter, which a further run would have to merge: {reason}"
            )
            yield Problem(
                where("model.name_or_path"), what, "start from its base model, or train another kind of adapter"
            )
