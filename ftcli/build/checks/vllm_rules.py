"""What TRL can have vLLM sample: versions that it takes, weights that it can hand over, and the engine's memory."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
from collections.abc import Callable, Iterator

from ftcli.build.checks.field_needs import current
from ftcli.core.errors import ConfigError, Problem
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
from ftcli.settings.library_fields import source_text

Where = Callable[[str], str]
VLLM_TOKENS_A_PASS = 4096
"""Tokens that TRL lets a colocated engine compute in one pass, of which each answer takes one."""
_WITHOUT = "remove method.use_vllm to generate with transformers"


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


def problems(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """What TRL cannot have vLLM sample, or could only with an engine of another kind."""
    at, device = where("method.use_vllm"), run.spec.launch.device
    if device == "cpu":
        # Its engine for CPUs packs the weights of its layers when it loads them, and takes no others afterwards.
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
