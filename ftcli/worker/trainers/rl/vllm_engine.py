"""What vLLM is given of a run that TRL's configs cannot say: its type, seed, revision, end tokens and longest sequence.

TRL passes an engine the model's name and leaves the rest to vLLM, which would compute in the type that the weights are
stored in, draw alike in every run, stop at the stored model's end tokens only, and reserve a cache for sequences as
long as the model has positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from ftcli.core.errors import ConfigError, Problem
from ftcli.models.sources import is_multimodal, resolved_source
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.trainers.fused_head import replaced

_SEEDS = 2**32
"""Seeds that vLLM takes, since it passes them on to numpy."""


def library() -> Any:
    """TRL's module that speaks to vLLM; only runs that sample with vLLM use it."""
    from trl.generation import vllm_generation

    return vllm_generation


def is_colocated(config: Any) -> bool:
    """Whether each process has an engine beside what it trains."""
    return bool(getattr(config, "use_vllm", False)) and config.vllm_mode == "colocate"


def limit_sequences(config: Any, prompts: Sequence[Dataset | None], positions: int | None) -> None:
    """Set the length limit of a colocated engine where the run leaves it open: the longest prompt and answer.

    Args:
        prompts: the rows that are answered, in training and for measuring; their column `prompt_ids`.
        positions: the longest sequence of the model, if its configuration says so.

    Raises:
        ConfigError: the limit that was set, or the model, is too short for the rows.
    """
    if not is_colocated(config):
        return
    prompt = max(_longest(rows) for rows in prompts if rows is not None)
    answer = int(getattr(config, "max_new_tokens", 0) or config.max_completion_length)
    wanted, needed = config.vllm_max_model_length, prompt + answer
    whole = f"the longest prompt has {prompt} tokens, and an answer up to {answer}"
    if positions is not None and needed > positions:
        fix = "lower data.max_length_tokens or the longest answer"
        raise ConfigError(Problem("data.max_length_tokens", f"{whole}: the model has {positions} positions", fix))
    if wanted is not None and wanted < needed:
        fix = f"set it to {needed}, or leave it out"
        raise ConfigError(Problem("method.vllm_max_model_length", f"is {wanted}; {whole}", fix))
    config.vllm_max_model_length = wanted or needed


def _longest(rows: Dataset) -> int:
    lengths = pc.list_value_length(rows.with_format("arrow")[:]["prompt_ids"])
    return int(pc.max(lengths).as_py() or 0)


def end_answers(config: Any, ends: Sequence[int]) -> None:
    """End answers at the run's own end tokens too; vLLM knows those of the stored model.

    A config without sampling parameters belongs to a trainer that passes them itself.
    """
    if getattr(config, "use_vllm", False) and hasattr(config, "generation_kwargs"):
        config.generation_kwargs = {"stop_token_ids": list(ends), **(config.generation_kwargs or {})}


@contextmanager
def as_the_run(spec: RunSpec, config: Any) -> Iterator[None]:
    """Start a colocated engine, which a trainer made in this context has, with the run's type, seed and revision.

    Raises:
        ConfigError: the model is the text model of a multimodal one.
    """
    engine = getattr(library(), "LLM", None) if is_colocated(config) else None
    if engine is None:  # no engine, or no vLLM, which TRL reports
        yield
        return
    if is_multimodal(spec.model):  # a model from the hub may not have been here when the run was checked
        what = f"{spec.model.name_or_path} is trained as its text model, and vLLM would load the whole of it"
        raise ConfigError(Problem("method.use_vllm", what, "remove it to generate with transformers"))
    groups = config.world_size // config.vllm_tensor_parallel_size
    own = _of_run(spec)

    def started(*, seed: int, **given: Any) -> Any:
        # TRL's seed is the number of the group, whose processes have to draw alike, and the same in every run.
        return engine(**{**given, **own, "seed": (spec.seed * groups + seed) % _SEEDS})

    with replaced(library(), LLM=started):
        yield


def _of_run(spec: RunSpec) -> dict[str, Any]:
    hub_id, revision = resolved_source(spec.model.name_or_path).hub_id, spec.model.revision
    place = {"revision": revision, "tokenizer_revision": revision} if hub_id and revision else {}
    return {"dtype": spec.compute_dtype, "trust_remote_code": spec.model.trust_remote_code, **place}
