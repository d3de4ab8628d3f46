"""How a policy samples: what its trainer passes on, the caches that work here, and what TRL can have vLLM sample."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ftcli.build.checks.adapter import is_installed
from ftcli.build.checks.field_checks import limit_problem
from ftcli.build.checks.field_needs import current
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.suggest import suggest
from ftcli.launch.profile import cards
from ftcli.models import sources
from ftcli.models.parameters import num_parameters
from ftcli.models.shape import Shape
from ftcli.peft_methods import PeftMethod
from ftcli.peft_methods.other import TOKENS_IN_VLLM
from ftcli.plan.memory import GIB, weight_bytes
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.plan.run_memory import answer_tokens, stays_quantised
from ftcli.plan.sampling_memory import key_value_bytes
from ftcli.settings.library_fields import accepts, source_text
from ftcli.settings.limits import Limit

Where = Callable[[str], str]

# Entries of a generation config that another setting sets.
_OWNED = {
    "max_new_tokens": "method.max_completion_length", "max_length": "method.max_completion_length",
    "do_sample": "the method, which samples", "num_return_sequences": "method.num_generations",
    "temperature": "method.temperature", "top_p": "method.top_p", "top_k": "method.top_k", "min_p": "method.min_p",
    "repetition_penalty": "method.repetition_penalty", "cache_implementation": "method.cache_implementation",
    "pad_token_id": "the tokenizer", "bos_token_id": "the tokenizer", "eos_token_id": "the tokenizer",
    "num_beams": "the method, which samples", "disable_compile": "ftcli",
}  # fmt: skip
_COUNT, _CUTOFF = Limit(low=0), Limit(low=0, high=1, open_high=True)
# Entries that sampling reads from numbers alone. The others belong to beam search, to assisted generation, or to
# objects that no recipe can write; `stop_strings` needs a tokenizer, which the trainers do not pass on.
_SAMPLING: Mapping[str, tuple[str, Limit]] = {
    "typical_p": ("float", Limit(low=0, high=1, open_low=True)),
    "epsilon_cutoff": ("float", _CUTOFF),
    "eta_cutoff": ("float", _CUTOFF),
    "top_h": ("float", Limit(low=0, high=1, open_low=True)),
    "no_repeat_ngram_size": ("int", _COUNT),
    "min_length": ("int", _COUNT),
    "min_new_tokens": ("int", _COUNT),
    "max_time": ("float", Limit(low=0, open_low=True)),
    "renormalize_logits": ("bool", Limit()),
    "remove_invalid_values": ("bool", Limit()),
    "suppress_tokens": ("list[int]", _COUNT),
    "begin_suppress_tokens": ("list[int]", _COUNT),
    "bad_words_ids": ("list[list[int]]", _COUNT),
    "guidance_scale": ("float", Limit(low=0)),
    "use_cache": ("bool", Limit()),
}
_TYPES = {"float": "a number", "int": "a whole number", "bool": "true or false", "list[int]": "a list of token ids",
          "list[list[int]]": "a list of lists of token ids"}  # fmt: skip
# Sampling parameters of vLLM that another setting sets.
_VLLM_OWNED = {
    "n": "method.num_generations", "max_tokens": "method.max_completion_length", "logprobs": "the method",
    "temperature": "method.temperature", "top_p": "method.top_p", "top_k": "method.top_k", "min_p": "method.min_p",
    "repetition_penalty": "method.repetition_penalty",
}  # fmt: skip
VLLM_TOKENS_A_PASS = 4096
"""Tokens that TRL lets a colocated engine compute in one pass, of which each answer takes one."""
_WITHOUT = "remove method.use_vllm to generate with transformers"


def entries(name: str, content: Mapping[str, Any], run: ResolvedRun, at: str) -> Iterator[Problem]:
    """The problems of `method.generation_kwargs`; with vLLM they are its sampling parameters, whose types it checks."""
    if run.spec.method.get("use_vllm"):
        yield from _vllm_entries(name, content, at)
        return
    for key, value in content.items():
        known = _SAMPLING.get(str(key))
        if key in _OWNED:
            yield Problem(at, f"{name}.{key} is owned by {_OWNED[key]}", f"use {_OWNED[key]}")
        elif known is None:
            fix = suggest(str(key), _SAMPLING, "")
            yield Problem(at, f"{name} has no entry {key}, or none that sampling reads", fix)
        elif not accepts(ast.parse(known[0], mode="eval").body, value):
            yield Problem(at, f"{name}.{key}={value!r} is not of its type", f"give {_TYPES[known[0]]}")
        elif problem := limit_problem(f"{name}.{key}", value, known[1], at):
            yield problem


def _vllm_entries(name: str, content: Mapping[str, Any], at: str) -> Iterator[Problem]:
    for key in content:
        if key in _VLLM_OWNED:
            yield Problem(at, f"{name}.{key} is owned by {_VLLM_OWNED[key]}", f"use {_VLLM_OWNED[key]}")
        elif key == "seed":
            what = f"{name}.seed would draw every answer to a prompt alike: vLLM starts each request with it anew"
            yield Problem(at, what, "remove it: a colocated engine draws by `seed`, a server by its own --seed")


def problems(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """The problems of how the policy samples."""
    yield from _cache(run, where)
    if run.spec.method.get("use_vllm"):
        yield from _vllm(run, where)


def _cache(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """The problem of a KV cache that needs a GPU, or a package."""
    kind, at = run.spec.method.get("cache_implementation"), where("method.cache_implementation")
    if kind is None:
        return
    if "offloaded" in str(kind) and run.spec.launch.device == "cpu":
        what = f"method.cache_implementation={kind} moves the cache out of a GPU, and this run computes on a CPU"
        yield Problem(at, what, "remove it")
    if kind == "quantized" and not is_installed("optimum.quanto"):
        what = "method.cache_implementation=quantized needs the package optimum-quanto, which is not installed"
        yield Problem(at, what, "pip install optimum-quanto, or remove it")


def vllm_versions() -> tuple[str, str] | None:
    """The first and the last version of vLLM that the installed TRL takes; None where its source does not say."""
    found = re.search(r'Version\("([\d.]+)"\) <= \w+ <= Version\("([\d.]+)"\)', source_text("trl.import_utils"))
    return (found[1], found[2]) if found else None


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what marks a local build or a pre-release: TRL leaves both aside."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(each) for each in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _vllm(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """What TRL cannot have vLLM sample, or could only with an engine of another kind."""
    at, device = where("method.use_vllm"), run.spec.launch.device
    if device == "cpu":
        what = "vLLM receives the policy's weights on a GPU, and this run computes on a CPU"
        yield Problem(at, what, _WITHOUT)
        return
    yield from _vllm_package(at)
    yield from _handed_over(run, where)
    yield from _corrections(run, where)
    if current(run, "method.vllm_mode") == "colocate":
        yield from _engine(run, where)


def _vllm_package(at: str) -> Iterator[Problem]:
    versions = vllm_versions()
    wanted = f"'vllm>={versions[0]},<={versions[1]}'" if versions else "vllm"
    if importlib.util.find_spec("vllm") is None:
        yield Problem(at, "vLLM is not installed", f"pip install {wanted}, or remove it to generate with transformers")
        return
    from importlib.metadata import PackageNotFoundError, version  # takes as long as a help screen

    try:
        found = version("vllm")
    except PackageNotFoundError:  # its source, which has no version
        return
    if versions and not _release(versions[0]) <= _release(found) <= _release(versions[1]):
        what = f"vLLM {found} is installed, and the installed TRL takes {versions[0]} to {versions[1]}"
        yield Problem(at, what, f"pip install {wanted}, or {_WITHOUT}")


def _handed_over(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """The problems of weights that TRL would hand to vLLM under other names than vLLM's, or in another form."""
    spec, shape, peft, at = run.spec, run.shape, run.peft, where("method.use_vllm")
    if spec.quantisation.type != "none" or stays_quantised(run) is not None:
        what = "TRL hands vLLM the bytes of quantised weights, without the scales that they are read with"
        yield Problem(at, what, f"use quantisation=none, or {_WITHOUT}")
    if peft is not None and peft.adapter:
        yield from _adapter(run, peft, where)
    if spec.model.new_tokens:
        what = "model.new_tokens makes the vocabulary larger than the one that vLLM reads from the model's folder"
        fix = f"train and merge a model with them first (method=sft, then ftcli merge), or {_WITHOUT}"
        yield Problem(where("model.new_tokens"), what, fix)
    if _is_multimodal(run):
        what = f"{spec.model.name_or_path} is trained as its text model, and vLLM would load the whole of it"
        yield Problem(at, what, _WITHOUT)
    if shape is not None and shape.experts is not None:
        what = "transformers holds all experts of a layer as one tensor, whose name no checkpoint that vLLM reads has"
        yield Problem(at, what, _WITHOUT)


def _adapter(run: ResolvedRun, peft: PeftMethod, where: Where) -> Iterator[Problem]:
    """The problems of an adapter of which TRL would hand over something else than the merged weights."""
    settings, lora = run.spec.peft, f"use peft=lora, or {_WITHOUT}"
    if peft.never_merges:
        what = f"vLLM samples from merged weights, and peft={peft.name} cannot be merged: {peft.never_merges}"
        yield Problem(where("peft"), what, lora)
    elif peft.never_in_vllm:
        yield Problem(where("peft"), f"vLLM cannot sample from peft={peft.name}: {peft.never_in_vllm}", lora)
    if settings.get("trainable_token_indices"):
        what = f"vLLM cannot sample from it: {TOKENS_IN_VLLM}"
        yield Problem(where("peft.trainable_token_indices"), what, f"remove it, or {_WITHOUT}")


def _corrections(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """What TRL's config refuses of the correction for vLLM's own log-probabilities."""
    mode = current(run, "method.vllm_importance_sampling_mode")
    if not current(run, "method.vllm_importance_sampling_correction") or mode is None:
        return
    if current(run, "method.loss_type") == "vespo" and not str(mode).startswith("token_"):
        what = f"method.loss_type=vespo weighs single tokens, and method.vllm_importance_sampling_mode={mode} does not"
        fix = "add method.vllm_importance_sampling_mode=token_mask or token_truncate"
        yield Problem(where("method.loss_type"), what, fix)


def _engine(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """The problems of an engine inside the training processes, which loads the model from where the run does."""
    spec, shape, processes = run.spec, run.shape, run.spec.launch.num_processes
    parallel = int(current(run, "method.vllm_tensor_parallel_size"))
    at = where("method.vllm_tensor_parallel_size")
    if processes % parallel:
        fix = f"set it to {math.gcd(processes, parallel)}, or another divisor of the number of processes"
        what = f"method.vllm_tensor_parallel_size={parallel} does not divide the {processes} processes into groups"
        yield Problem(at, what, fix)
    if shape is not None and shape.num_attention_heads % parallel:
        heads = shape.num_attention_heads
        what = f"method.vllm_tensor_parallel_size={parallel} does not divide the model's {heads} attention heads"
        yield Problem(at, what, f"set it to {math.gcd(heads, parallel)}")
    source = sources.model_source(spec.model.name_or_path)
    if source is not None and source.is_adapter:
        what = f"{spec.model.name_or_path} is an adapter, and a colocated vLLM loads a whole model from there"
        yield Problem(where("model.name_or_path"), what, "merge it first: ftcli merge RUN")
    rollouts = current(run, "method.num_mini_batches")  # of PPO, whose rollout is so many steps
    together = run.batch.rows * rollouts if rollouts else run.batch.answers_per_generation(spec.method)
    answers = together // processes * parallel
    if answers > VLLM_TOKENS_A_PASS:
        what = f"an engine would generate {answers} answers together, and TRL gives it {VLLM_TOKENS_A_PASS} at most"
        yield Problem(where("method.use_vllm"), what, "lower train.gradient_accumulation_steps or the batch")
    yield from _sequence(run, where)
    if shape is not None:
        yield from _share(run, shape, parallel, where)


def _is_multimodal(run: ResolvedRun) -> bool:
    with contextlib.suppress(ConfigError):  # reported by another rule
        return sources.is_multimodal(run.spec.model)
    return False


def _sequence(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """A length limit that holds no prompt beside an answer, or more than the model has positions for."""
    wanted, answer = run.spec.method.get("vllm_max_model_length"), answer_tokens(run.spec, run.method)
    if wanted is None:
        return
    at = where("method.vllm_max_model_length")
    positions = run.shape.max_position_embeddings if run.shape else None
    if wanted <= answer:
        what = f"method.vllm_max_model_length={wanted} holds no prompt beside an answer of {answer} tokens"
        yield Problem(at, what, "leave it out: it is then as long as the longest prompt and answer")
    elif positions is not None and wanted > positions:
        what = f"method.vllm_max_model_length={wanted} is more than the model's {positions} positions"
        yield Problem(at, what, "leave it out: it is then as long as the longest prompt and answer")


def _share(run: ResolvedRun, shape: Shape, parallel: int, where: Where) -> Iterator[Problem]:
    """A share of the card that does not hold the engine's weights and the cache of a single answer."""
    known, weights = cards(run.spec.launch), num_parameters(shape)
    if not known or weights is None:
        return
    room = min(card.memory_gib for card in known)
    tokens = run.spec.method.get("vllm_max_model_length") or answer_tokens(run.spec, run.method)
    each = int(weight_bytes(shape, run.spec.compute_dtype))
    needed = weights * each + tokens * key_value_bytes(shape, each)
    gib, share = needed / parallel / GIB, float(current(run, "method.vllm_gpu_memory_utilization"))
    if gib <= share * room:
        return
    what = f"vLLM's weights and one answer take {gib:.1f} GiB, and its share of the card is {share * room:.1f} GiB"
    least = math.ceil(100 * gib / room) / 100
    fix = f"set method.vllm_gpu_memory_utilization={least:g} or more"
    if least >= 1:
        fix = "raise method.vllm_tensor_parallel_size, which divides the model among that many processes"
    yield Problem(where("method.vllm_gpu_memory_utilization"), what, fix)
