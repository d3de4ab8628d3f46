"""Sampling answers from a model, as tokens, for methods that train on their own samples."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from trl.trainer.utils import pad

from ftcli.worker.inference import shrinking_batch
from ftcli.worker.inference.fixed_draws import FixedDraws, drawing
from ftcli.worker.process import interruption
from ftcli.worker.tokenise.encoder import Ids
from ftcli.worker.tokenise.special_tokens import end_ids


@dataclass(frozen=True)
class Sampled:
    """An answer to a row's prompt, as tokens."""

    prompt_ids: Ids
    answer_ids: Ids
    """Up to and including the end token."""
    row: str
    """The row that was answered, as JSON."""
    ended: bool


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the model's own, and the tokenizer's."""
    return [
        *dict.fromkeys(
            [*end_ids(model.generation_config), *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])]
        )
    ]


def sample(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    batch_size: int | None = None,
    draws: FixedDraws | None = None,
) -> list[Sampled]:
    """One answer to each row's prompt, drawn with torch's own generator; a temperature of 0 is greedy.

    Penalties and truncation in the model's generation_config are ignored: training needs samples of the policy itself.

    Args:
        draws: draw by random numbers of each answer's own instead, whatever the batch.
    """
    ends = stop_ids(model, tokenizer)
    how = generation_config(
        model, tokenizer, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k
    )
    found: list[Sampled] = []
    for start in range(0, len(rows), batch_size or len(rows)):
        interruption.reached(start, len(rows), "answers")
        batch = rows[start : start + (batch_size or len(rows))]
        ids = [torch.tensor(row["prompt_ids"]) for row in batch]
        inputs = pad(ids, padding_value=tokenizer.pad_token_id or 0, padding_side="left").to(model.device)
        mask = pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side="left").to(model.device)
        fixed = draws.only(range(start, start + len(batch))) if draws is not None else None
        with torch.no_grad(), drawing(fixed) if fixed is not None else nullcontext():
            left = fixed.keep if fixed is not None else None
            output = shrinking_batch.generate(model, inputs, mask, how, left=left)
        for row, answer in zip(batch, output[:, inputs.size(1) :].tolist(), strict=True):
            ids_of_answer, ended = until_end(answer, ends)
            found.append(Sampled(list(row["prompt_ids"]), ids_of_answer, row["row"], ended))
    return found


def generation_config(
    model: Any, tokenizer: Any, *, max_new_tokens: int, temperature: float, top_p: float, top_k: int
) -> GenerationConfig:
    """Plain sampling, or greedy decoding at a temperature of 0, ignoring the model's own generation settings."""
    drawn = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    return GenerationConfig(
        **(drawn if temperature > 0 else {"do_sample": False}),
        max_new_tokens=max_new_tokens,
        eos_token_id=stop_ids(model, tokenizer) or None,
        pad_token_id=tokenizer.pad_token_id,
        repetition_penalty=1.0,
        use_cache=True,
    )


def until_end(answer: Ids, ends: Collection[int]) -> tuple[Ids, bool]:
    """An answer up to and including its first end token, and whether it has one; what follows may be padding."""
    first = next((i for i, token in enumerate(answer) if token in ends), None)
    return (answer, False) if first is None else (answer[: first + 1], True)
