"""How a policy samples: what its trainer passes on, and the caches that work here."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ftcli.build.checks.adapter import is_installed
from ftcli.build.checks.field_checks import limit_problem
from ftcli.core.errors import Problem
from ftcli.core.suggest import suggest
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.library_fields import accepts
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
        from ftcli.build.checks import vllm_rules  # only here: they need much of the planner

        yield from vllm_rules.problems(run, where)


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
