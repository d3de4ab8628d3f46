"""The methods' held-out metrics: exact match of greedy answers, preference accuracy, mean reward.

Measuring draws no random number and leaves the model in its mode; `undisturbed` also undoes what libraries do on the
side, so that training is bit for bit the same with or without it.
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
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from trl.trainer.utils import pad

from ftcli.data.formats.columns import VARIABLES
from ftcli.data.formats.conversations import only_read
from ftcli.data.scan import Example
from ftcli.methods.method import Method
from ftcli.worker.inference import shrinking_batch
from ftcli.worker.inference.answer_reader import AnswerReader
from ftcli.worker.inference.kept_answers import MOST_ROWS, MOST_TOKENS, KeptAnswers
from ftcli.worker.inference.sampling import stop_ids, until_end
from ftcli.worker.inference.token_logps import token_logps
from ftcli.worker.process import interruption
from ftcli.worker.tokenise.encoder import IGNORED, Encoder, Ids

BATCH = 32
"""Rows that a command has in memory together where no setting says how many."""
# An answer that is this much longer than the longest right one counts as wrong.
_SPARE_TOKENS = 8

Counts = dict[str, tuple[float, int]]
"""Hits and rows of each metric, so that processes can sum theirs; a tie is half a hit."""


Rewarded = Callable[..., Counts]
"""Of a model, examples, and the answers to keep or None."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore every random state afterwards."""
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
    batch_size: int = BATCH,
    kept: KeptAnswers | None = None,
) -> Counts:
    """The method's own metric of a model on held-out examples; empty if the method has none.

    Args:
        reference: the policy's reference, as a model or as a context manager under which `model` is the reference; adds
            the implicit reward accuracy of preference methods.
        rewarded: computes the rewards of greedy answers to the rows, for methods that learn from rewards.
        batch_size: rows that are in memory together.
        kept: takes some answers.
    """
    with evaluating(model):
        if method.score == "mean_reward":
            return rewarded(model, examples, kept) if rewarded is not None else {}
        if method.score == "exact_match":
            return _exact_match(model, encoder, examples, batch_size, kept)
        if method.score == "preference_accuracy" and method.head == "reward_model":
            return _ranking(model, encoder, examples, max_length_tokens, batch_size)
        if method.score == "preference_accuracy":
            if kept is not None:
                _keep(kept, model, encoder, examples[:MOST_ROWS])
            return _preference(model, encoder, examples, reference, max_length_tokens, batch_size)
    return {}


def shares(counts: Counts) -> dict[str, Any]:
    """The counts as {name, value, rows} of the main metric, plus the further metrics by name."""
    named = {name: hits / rows for name, (hits, rows) in counts.items() if rows}
    if not named:
        return {}
    main = next(iter(named))
    return {"name": main, "value": named.pop(main), "rows": counts[main][1], **named}


def question(example: Example) -> tuple[Any, Any] | None:
    """The prompt and the right answer, text or a turn, of a pair, or of a conversation's last assistant turn; None for
    other types."""
    if example.kind == "pair":
        prompt, completion = example.value["prompt"], example.value["completion"]
        return (prompt, completion) if isinstance(completion, str) else ([*prompt, *completion[:-1]], completion[-1])
    if example.kind != "messages":
        return None
    turns = example.value["messages"]
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
    return (turns[:last], turns[last]) if last else None


def normalised(answer: str) -> str:
    """An answer as it is compared: leading, trailing and repeated white space is ignored."""
    return " ".join(answer.split())


class _Stops(StoppingCriteria):
    """Ends a batch as soon as it is asked to."""

    def __init__(self, stops: Callable[[], bool]) -> None:
        self._stops = stops

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.full((len(input_ids),), self._stops(), dtype=torch.bool, device=input_ids.device)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    streamer: Any = None,
    batch_size: int = BATCH,
    stops: Callable[[], bool] | None = None,
    **settings: Any,
) -> list[Ids]:
    """Answers to tokenised prompts as tokens, in their order, each up to and including its end token.

    They are greedy unless `settings` (of GenerationConfig) override it. Prompts are padded on the left, in batches of
    similar length. A `streamer` receives the pieces of a single answer, which `stops` may end after each token.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[Ids] = [[]] * len(prompts)
    ends = stop_ids(model, tokenizer)
    values = {"do_sample": False, "eos_token_id": ends or None, "pad_token_id": tokenizer.pad_token_id, **settings}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids = [torch.tensor(prompts[i]) for i in batch]
        inputs = pad(ids, padding_value=tokenizer.pad_token_id or 0, padding_side="left").to(model.device)
        mask = pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side="left").to(model.device)
        config = GenerationConfig(**values)
        live: dict[str, Any] = {} if streamer is None else {"streamer": streamer}
        if stops is not None:
            live["stopping_criteria"] = [_Stops(stops)]
        output = shrinking_batch.generate(model, inputs, mask, config, **live)
        for index, answer in zip(batch, output[:, inputs.shape[1] :].tolist(), strict=True):
            answers[index], _ = until_end(answer, ends)
        interruption.reached(min(start + batch_size, len(order)), len(order), "answers")
    return answers


def _keep(kept: KeptAnswers, model: PreTrainedModel, encoder: Encoder, examples: Sequence[Example]) -> None:
    """Answer some prompts greedily, for a metric that needs no answers."""
    encoded = zip(examples, encoder.encode(examples), strict=True)
    questions = [(each.where, prompt) for each, row in encoded if (prompt := row.columns["prompt_ids"])]
    prompts = [prompt for _, prompt in questions]
    answers = generate(model, encoder.tokenizer, prompts, max_new_tokens=MOST_TOKENS)
    kept.add([where for where, _ in questions], prompts, answers)


def _exact_match(
    model: PreTrainedModel,
    encoder: Encoder,
    examples: Sequence[Example],
    batch_size: int,
    kept: KeptAnswers | None,
) -> Counts:
    found = right_answers(model, encoder, examples, batch_size, kept)
    return {"exact_match": (sum(found), len(found))}


def right_answers(
    model: PreTrainedModel,
    encoder: Encoder,
    examples: Sequence[Example],
    batch_size: int = BATCH,
    kept: KeptAnswers | None = None,
) -> list[bool]:
    """Whether each greedy answer ends as the right one does; both are read as the chat template divides them. Rows
    without an answer are left out.

    Args:
        kept: takes some answers.
    """
    questions = [(found, example) for example in examples if (found := question(example)) is not None]
    if not questions:
        return []
    prompts = [encoder.prompt_ids(prompt, example.value) for (prompt, _), example in questions]
    right = _trained_answers(encoder, questions)
    longest = max(map(len, right)) + _SPARE_TOKENS
    given = generate(model, encoder.tokenizer, prompts, batch_size=batch_size, max_new_tokens=longest)
    if kept is not None:
        kept.add([example.where for _, example in questions], prompts, given, right=right)
    reader = AnswerReader(encoder)
    return [_same(reader, *each) for each in zip(prompts, given, right, strict=True)]


def _trained_answers(encoder: Encoder, questions: Sequence[tuple[tuple[Any, Any], Example]]) -> list[Ids]:
    """The tokens that training teaches as the answer to each question, reasoning and end token included."""
    pairs = []
    for (prompt, answer), example in questions:
        plain = isinstance(answer, str)
        value = {
            "prompt": prompt if plain else only_read(prompt),
            "completion": answer if plain else only_read([answer]),
        }
        context = {name: example.value[name] for name in ("tools", VARIABLES) if example.value.get(name)}
        pairs.append(Example(example.where, "pair", {**value, **context}))
    return [[label for label in encoded.columns["labels"] if label != IGNORED] for encoded in encoder.encode(pairs)]


def _same(reader: AnswerReader, prompt: Ids, given: Ids, right: Ids) -> bool:
    """Whether the final parts agree; where the right answer has none, as a call in some templates, all of it must."""
    ours, theirs = (normalised(reader.final(prompt, ids)) for ids in (given, right))
    if not theirs:
        ours, theirs = (normalised(reader.whole(prompt, ids)) for ids in (given, right))
    return ours == theirs


def _preference(
    model: PreTrainedModel,
    encoder: Encoder,
    examples: Sequence[Example],
    reference: Any,
    limit: int | None,
    batch_size: int,
) -> Counts:
    """For pairs, which answer has the higher mean log-probability, and which the policy moved towards; for labels, the
    latter."""
    rows = [row.columns for row in encoder.encode(examples)]
    own = _judged(partial(logps, model, encoder, batch_size=batch_size), rows, limit)
    pairs = ~(own["chosen_ids"][0].isnan() | own["rejected_ids"][0].isnan())
    preferred = own["chosen_ids"][1] > own["rejected_ids"][1]
    counts: Counts = {"preference_accuracy": (int(preferred[pairs].sum()), int(pairs.sum()))} if pairs.any() else {}
    if reference is None:
        return counts
    is_model = isinstance(reference, torch.nn.Module)
    with nullcontext() if is_model else reference:
        judge = reference if is_model else model
        other = _judged(partial(logps, judge, encoder, batch_size=batch_size), rows, limit)
    chosen, rejected = (own[side][0] - other[side][0] for side in ("chosen_ids", "rejected_ids"))
    for name, moved in (
        ("reward_accuracy", (chosen - rejected)[pairs]),
        ("label_accuracy", torch.cat([chosen[~pairs], -rejected[~pairs]])),
    ):
        known = moved[~moved.isnan()]
        if len(known):
            counts[name] = (_wins(known), len(known))  # before training, policy and reference agree: all are ties
    return counts


def _ranking(
    model: PreTrainedModel, encoder: Encoder, examples: Sequence[Example], limit: int | None, batch_size: int
) -> Counts:
    """For pairs, which answer the reward model scores higher; ties count half."""
    rows = [row.columns for row in encoder.encode(examples)]
    found = _judged(partial(scores, model, encoder, batch_size=batch_size), rows, limit)
    margins = found["chosen_ids"][0] - found["rejected_ids"][0]
    known = margins[~margins.isnan()]
    return {"preference_accuracy": (_wins(known), len(known))}


def _wins(margins: Tensor) -> float:
    """How many margins are above 0; those equal to 0 count half."""
    return float((margins > 0).sum()) + float((margins == 0).sum()) / 2


def _judged(
    measured: Callable[[list[Ids], list[Ids], int | None], tuple[Tensor, ...]],
    rows: Sequence[dict[str, Ids]],
    limit: int | None,
) -> dict[str, tuple[Tensor, ...]]:
    """The measured values of each row's chosen and rejected answer, of shape (rows,); NaN if it has no such answer."""
    found = {}
    for side in ("chosen_ids", "rejected_ids"):
        index = [i for i, row in enumerate(rows) if row[side]]
        values = measured([rows[i]["prompt_ids"] for i in index], [rows[i][side] for i in index], limit)
        found[side] = tuple(
            torch.full((len(rows),), math.nan).index_copy(0, torch.tensor(index, dtype=torch.long), v) for v in values
        )
    return found


def _batches(
    prompts: Sequence[Ids], answers: Sequence[Ids], limit: int | None, batch_size: int
) -> Iterator[tuple[list[Tensor], list[int]]]:
    """Batches of sequences, truncated at the limit, with the index at which each answer begins."""
    for start in range(0, len(prompts), batch_size):
        interruption.reached(start, len(prompts), "answers")
        own = list(zip(prompts[start : start + batch_size], answers[start : start + batch_size], strict=True))
        yield [torch.tensor((prompt + answer)[:limit]) for prompt, answer in own], [len(prompt) for prompt, _ in own]


def scores(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Ids],
    answers: Sequence[Ids],
    limit: int | None = None,
    *,
    batch_size: int = BATCH,
) -> tuple[Tensor]:
    """The reward score of each answer given its prompt, of shape (rows,), in float32."""
    found = []
    for ids, _ in _batches(prompts, answers, limit, batch_size):
        inputs, mask = _padded(ids, encoder, model.device)
        found.append(model(input_ids=inputs, attention_mask=mask).logits[:, 0].float().cpu())
    return (torch.cat(found) if found else torch.zeros(0),)


def _padded(ids: list[Tensor], encoder: Encoder, device: Any) -> tuple[Tensor, Tensor]:
    """Sequences of a batch, padded on the right, and their attention mask, both of shape (B, L)."""
    mask = pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side="right")
    return pad(ids, padding_value=encoder.tokenizer.pad_token_id or 0, padding_side="right").to(device), mask.to(device)


def logps(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Ids],
    answers: Sequence[Ids],
    limit: int | None,
    *,
    batch_size: int = BATCH,
) -> tuple[Tensor, Tensor]:
    """Sum and mean of the log-probabilities in nats of each answer, each of shape (rows,)."""
    sums, means = [], []
    for ids, starts in _batches(prompts, answers, limit, batch_size):
        inputs, mask = _padded(ids, encoder, model.device)
        places = torch.arange(inputs.size(1), device=model.device)
        first = max(1, min(starts))
        kept = ((places >= torch.tensor(starts, device=model.device)[:, None]) & mask.bool())[:, first:]
        found = token_logps(model, inputs, mask, first) * kept
        sums.append(found.sum(1).cpu())
        means.append((found.sum(1) / kept.sum(1).clamp(min=1)).cpu())
    return (torch.cat(sums), torch.cat(means)) if sums else (torch.zeros(0), torch.zeros(0))
