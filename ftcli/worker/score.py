"""The methods' own held-out scores: exact match of greedy answers, and which answer of a pair is preferred.

Scoring draws no random number and leaves the model in the mode it found it in; `undisturbed` guards what libraries do
on the side, so that training is bit for bit the same with or without it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from trl.trainer.utils import pad, selective_log_softmax

from ftcli.data.scan import Example
from ftcli.methods.base import Method
from ftcli.worker.tokens import IGNORED, Encoder, Ids

_BATCH = 32
# An answer that has gone on this much longer than the longest right one is wrong.
_SPARE_TOKENS = 8

Counts = dict[str, tuple[int, int]]
"""Hits and rows of each measure, so that processes can add theirs up."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restores every random state afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode, without gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def count_hits(
    method: Method,
    model: PreTrainedModel,
    encoder: Encoder,
    examples: Sequence[Example],
    *,
    reference: Any = None,
    max_length_tokens: int | None = None,
) -> Counts:
    """The method's own score of a model on held-out examples; empty where the method has none.

    Args:
        reference: what the policy started from, as a model or a context manager under which `model` is it; adds the
            implicit reward accuracy of preference methods.
    """
    with evaluating(model):
        if method.score == "exact_match":
            return _exact_match(model, encoder, examples)
        if method.score == "preference_accuracy":
            return _preference(model, encoder, examples, reference, max_length_tokens)
    return {}


def shares(counts: Counts) -> dict[str, Any]:
    """The counts as {name, value, rows} of the main measure with further measures beside it."""
    named = {name: hits / rows for name, (hits, rows) in counts.items() if rows}
    if not named:
        return {}
    main = next(iter(named))
    return {"name": main, "value": named.pop(main), "rows": counts[main][1], **named}


def question(example: Example) -> tuple[Any, str] | None:
    """What is asked and the right answer: a conversation up to its last assistant turn, or a pair; None for others."""
    if example.kind == "pair":
        completion = example.value["completion"]
        return example.value["prompt"], completion if isinstance(completion, str) else completion[-1]["content"]
    if example.kind != "messages":
        return None
    turns = example.value["messages"]
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
    return (turns[:last], turns[last]["content"]) if last else None


def normalised(answer: str) -> str:
    """An answer as it is compared: white space at the ends and in runs does not count."""
    return " ".join(answer.split())


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    streamer: Any = None,
    **settings: Any,
) -> list[str]:
    """Answers to tokenised prompts, in their order; greedy unless `settings` (of GenerationConfig) say otherwise.

    Prompts are padded on the left, in batches of similar length. A `streamer` takes the pieces of a single answer.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if tokenizer.eos_token_id is not None:
        ends = [*dict.fromkeys([*ends, tokenizer.eos_token_id])]
    asked = {"do_sample": False, "eos_token_id": ends or None, "pad_token_id": tokenizer.pad_token_id, **settings}
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        ids = [torch.tensor(prompts[i]) for i in batch]
        inputs = pad(ids, padding_value=tokenizer.pad_token_id or 0, padding_side="left").to(model.device)
        mask = pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side="left").to(model.device)
        config = GenerationConfig(**asked)
        output = model.generate(input_ids=inputs, attention_mask=mask, generation_config=config, streamer=streamer)
        texts = tokenizer.batch_decode(output[:, inputs.shape[1] :], skip_special_tokens=True)
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text
    return answers


def _exact_match(model: PreTrainedModel, encoder: Encoder, examples: Sequence[Example]) -> Counts:
    asked = [(found, example) for example in examples if (found := question(example)) is not None]
    if not asked:
        return {"exact_match": (0, 0)}
    prompts = [encoder.prompt_ids(prompt, example.value.get("tools")) for (prompt, _), example in asked]
    right = [answer for (_, answer), _ in asked]
    longest = max(len(ids) for ids in encoder.tokenizer(text=right, add_special_tokens=False)["input_ids"])
    given = generate(model, encoder.tokenizer, prompts, max_new_tokens=longest + _SPARE_TOKENS)
    hits = sum(normalised(ours) == normalised(theirs) for ours, theirs in zip(given, right, strict=True))
    return {"exact_match": (hits, len(right))}


def _preference(
    model: PreTrainedModel, encoder: Encoder, examples: Sequence[Example], reference: Any, limit: int | None
) -> Counts:
    encoded = [row.columns for row in encoder.encode(examples)]
    rows = [row for row in encoded if row["chosen_ids"] and row["rejected_ids"]]
    chosen, chosen_means = _logps(model, encoder, rows, "chosen_ids", limit)
    rejected, rejected_means = _logps(model, encoder, rows, "rejected_ids", limit)
    counts = {"preference_accuracy": (int((chosen_means > rejected_means).sum()), len(rows))}
    if reference is not None:
        is_model = isinstance(reference, torch.nn.Module)
        with nullcontext() if is_model else reference:
            other = reference if is_model else model
            margins = chosen - _logps(other, encoder, rows, "chosen_ids", limit)[0]
            margins -= rejected - _logps(other, encoder, rows, "rejected_ids", limit)[0]
        counts["reward_accuracy"] = (int((margins > 0).sum()), len(rows))
    return counts


def _logps(
    model: Any, encoder: Encoder, rows: list[dict[str, Ids]], side: str, limit: int | None
) -> tuple[Tensor, Tensor]:
    """Sum and mean of the log-probabilities in nats of each row's answer, each of shape (rows,)."""
    sums, means = [], []
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        ids = [torch.tensor((row["prompt_ids"] + row[side])[:limit]) for row in batch]
        labels = [row.clone() for row in ids]
        for label, row in zip(labels, batch, strict=True):
            label[: len(row["prompt_ids"])] = IGNORED
        inputs = pad(ids, padding_value=encoder.tokenizer.pad_token_id or 0, padding_side="right").to(model.device)
        mask = pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side="right").to(model.device)
        target = pad(labels, padding_value=IGNORED, padding_side="right").to(model.device)[:, 1:]
        logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1]
        kept = target != IGNORED
        logps = selective_log_softmax(logits, target.clamp(min=0)).float() * kept
        sums.append(logps.sum(1).cpu())
        means.append((logps.sum(1) / kept.sum(1).clamp(min=1)).cpu())
    return (torch.cat(sums), torch.cat(means)) if sums else (torch.zeros(0), torch.zeros(0))
