"""The methods' own held-out scores: exact match of greedy answers, and which answer of a pair is preferred.

Scoring draws no random number and leaves the model in the mode it found it in; `undisturbed` guards what libraries do
on the side, so that training is bit for bit the same with or without it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from trl.trainer.utils import pad, selective_log_softmax

from ftcli.data.scan import Example
from ftcli.methods.method import Method
from ftcli.worker.tokenise.encoder import Encoder, Ids

_BATCH = 32
# An answer that has gone on this much longer than the longest right one is wrong.
_SPARE_TOKENS = 8

Counts = dict[str, tuple[float, int]]
"""Hits and rows of each measure, so that processes can add theirs up; a tie is half a hit."""


Rewarded = Callable[[Any, Sequence[Example]], Counts]


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
    rewarded: Rewarded | None = None,
) -> Counts:
    """The method's own score of a model on held-out examples; empty where the method has none.

    Args:
        reference: what the policy started from, as a model or a context manager under which `model` is it; adds the
            implicit reward accuracy of preference methods.
        rewarded: what greedy answers to the rows are worth, for methods that learn from rewards.
    """
    with evaluating(model):
        if method.score == "mean_reward":
            return rewarded(model, examples) if rewarded is not None else {}
        if method.score == "exact_match":
            return _exact_match(model, encoder, examples)
        if method.score == "preference_accuracy" and method.head == "reward_model":
            return _ranking(model, encoder, examples, max_length_tokens)
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
    """Of pairs, which answer is likelier a token, and which the policy has moved towards; of labels the latter."""
    rows = [row.columns for row in encoder.encode(examples)]
    own = _judged(partial(logps, model, encoder), rows, limit)
    pairs = ~(own["chosen_ids"][0].isnan() | own["rejected_ids"][0].isnan())
    preferred = own["chosen_ids"][1] > own["rejected_ids"][1]
    counts: Counts = {"preference_accuracy": (int(preferred[pairs].sum()), int(pairs.sum()))} if pairs.any() else {}
    if reference is None:
        return counts
    is_model = isinstance(reference, torch.nn.Module)
    with nullcontext() if is_model else reference:
        other = _judged(partial(logps, reference if is_model else model, encoder), rows, limit)
    chosen, rejected = (own[side][0] - other[side][0] for side in ("chosen_ids", "rejected_ids"))
    for name, moved in (
        ("reward_accuracy", (chosen - rejected)[pairs]),
        ("label_accuracy", torch.cat([chosen[~pairs], -rejected[~pairs]])),
    ):
        known = moved[~moved.isnan()]
        if len(known):
            counts[name] = (_wins(known), len(known))  # all are ties before the policy has moved
    return counts


def _ranking(model: PreTrainedModel, encoder: Encoder, examples: Sequence[Example], limit: int | None) -> Counts:
    """Of pairs, which answer the reward model scores higher; ties count half."""
    rows = [row.columns for row in encoder.encode(examples)]
    found = _judged(partial(scores, model, encoder), rows, limit)
    margins = found["chosen_ids"][0] - found["rejected_ids"][0]
    known = margins[~margins.isnan()]
    return {"preference_accuracy": (_wins(known), len(known))}


def _wins(margins: Tensor) -> float:
    """How many are above 0; those that are 0 count half."""
    return float((margins > 0).sum()) + float((margins == 0).sum()) / 2


def _judged(
    measured: Callable[[list[Ids], list[Ids], int | None], tuple[Tensor, ...]],
    rows: Sequence[dict[str, Ids]],
    limit: int | None,
) -> dict[str, tuple[Tensor, ...]]:
    """What is measured of each row's chosen and of its rejected answer, of shape (rows,); NaN where it has none."""
    found = {}
    for side in ("chosen_ids", "rejected_ids"):
        index = [i for i, row in enumerate(rows) if row[side]]
        values = measured([rows[i]["prompt_ids"] for i in index], [rows[i][side] for i in index], limit)
        found[side] = tuple(
            torch.full((len(rows),), math.nan).index_copy(0, torch.tensor(index, dtype=torch.long), v) for v in values
        )
    return found


def _batches(
    prompts: Sequence[Ids], answers: Sequence[Ids], limit: int | None
) -> Iterator[tuple[list[Tensor], list[int]]]:
    """Sequences of a batch, cut at the limit, and where the answer begins in each."""
    for start in range(0, len(prompts), _BATCH):
        own = list(zip(prompts[start : start + _BATCH], answers[start : start + _BATCH], strict=True))
        yield [torch.tensor((prompt + answer)[:limit]) for prompt, answer in own], [len(prompt) for prompt, _ in own]


def scores(
    model: Any, encoder: Encoder, prompts: Sequence[Ids], answers: Sequence[Ids], limit: int | None = None
) -> tuple[Tensor]:
    """The reward model's score of each answer behind its prompt, of shape (rows,), in float32."""
    found = []
    for ids, _ in _batches(prompts, answers, limit):
        inputs, mask = _padded(ids, encoder, model.device)
        found.append(model(input_ids=inputs, attention_mask=mask).logits[:, 0].float().cpu())
    return (torch.cat(found) if found else torch.zeros(0),)


def _padded(ids: list[Tensor], encoder: Encoder, device: Any) -> tuple[Tensor, Tensor]:
    """Sequences of a batch, padded on the right, and which of their tokens are no padding."""
    mask = pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side="right")
    return pad(ids, padding_value=encoder.tokenizer.pad_token_id or 0, padding_side="right").to(device), mask.to(device)


def logps(
    model: Any, encoder: Encoder, prompts: Sequence[Ids], answers: Sequence[Ids], limit: int | None
) -> tuple[Tensor, Tensor]:
    """Sum and mean of the log-probabilities in nats of each answer, each of shape (rows,)."""
    sums, means = [], []
    for ids, starts in _batches(prompts, answers, limit):
        inputs, mask = _padded(ids, encoder, model.device)
        answered = (
            torch.arange(inputs.size(1), device=model.device) >= torch.tensor(starts, device=model.device)[:, None]
        )
        kept = (answered & mask.bool())[:, 1:]
        logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1]
        logps = selective_log_softmax(logits[:, -kept.size(1) :], inputs[:, 1:]).float() * kept
        sums.append(logps.sum(1).cpu())
        means.append((logps.sum(1) / kept.sum(1).clamp(min=1)).cpu())
    return (torch.cat(sums), torch.cat(means)) if sums else (torch.zeros(0), torch.zeros(0))
