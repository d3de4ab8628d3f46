"""Measures of a model on rows of a file: a value for each row, so that two models are compared row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.data.scan import Example
from ftcli.evaluations.measures import ANSWERS, LOWER, PERPLEXITY, PREFERENCES, REWARD
from ftcli.worker.inference import metrics
from ftcli.worker.inference.examples import answered_of, prompt_of
from ftcli.worker.inference.reward_model import RewardModel
from ftcli.worker.measures import intervals
from ftcli.worker.measures.subjects import Subject
from ftcli.worker.tokenise.encoder import IGNORED, Ids

_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Rows:
    """The rows that are measured."""

    examples: Sequence[Example]
    limit: int | None
    """The most tokens of a row that are read: of the models, and of the run whose held-out rows they are."""
    batch_size: int
    reward: RewardModel | None = None


@dataclass(frozen=True)
class Values:
    """What a measure found of one model."""

    rows: list[float]
    tokens: list[int] | None = None
    """Of a perplexity, whose rows are summed losses."""


def measure(name: str, subject: Subject, rows: Rows) -> Values:
    """A measure of one model on rows.

    Raises:
        ConfigError: it leaves no row to measure.
    """
    with metrics.undisturbed(), metrics.evaluating(subject.model):
        found = _MEASURES[name](subject, rows)
    if not found.rows:
        raise ConfigError(Problem("--data", f"no row has what {name} reads", "name other rows with --data FILE"))
    return found


def _perplexity(subject: Subject, rows: Rows) -> Values:
    prompts, answers = [], []
    for encoded in subject.encoder.encode(rows.examples):
        ids, labels = encoded.columns["input_ids"][: rows.limit], encoded.columns["labels"][: rows.limit]
        trained = [place for place, label in enumerate(labels) if label != IGNORED]
        # Nothing stands before a first token that would make it likely.
        if trained and (first := max(1, trained[0])) <= trained[-1]:
            prompts.append(ids[:first])
            answers.append(ids[first : trained[-1] + 1])
    sums, _ = metrics.logps(subject.model, subject.encoder, prompts, answers, None, batch_size=rows.batch_size)
    return Values([-each for each in sums.tolist()], list(map(len, answers)))


def _answers(subject: Subject, rows: Rows) -> Values:
    hits = metrics.right_answers(subject.model, subject.encoder, rows.examples, rows.batch_size)
    return Values([float(hit) for hit in hits])


def _preferences(subject: Subject, rows: Rows) -> Values:
    columns = [row.columns for row in subject.encoder.encode(rows.examples)]
    means = partial(metrics.logps, subject.model, subject.encoder, limit=rows.limit, batch_size=rows.batch_size)
    prompts: list[Ids] = [each["prompt_ids"] for each in columns]
    _, chosen = means(prompts=prompts, answers=[each["chosen_ids"] for each in columns])
    _, rejected = means(prompts=prompts, answers=[each["rejected_ids"] for each in columns])
    margins = (chosen - rejected).tolist()
    return Values([1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins])


def _reward(subject: Subject, rows: Rows) -> Values:
    assert rows.reward is not None
    answered = [_with_answer(each, text) for each, text in zip(rows.examples, _texts(subject, rows), strict=True)]
    sequences = [answered_of(each)[0] for each in rows.reward.encode(answered)]
    return Values(rows.reward.score(sequences))


def _texts(subject: Subject, rows: Rows) -> list[str]:
    """Greedy answers to the rows' prompts."""
    ids = [subject.encoder.prompt_ids(prompt_of(each), each.value) for each in rows.examples]
    tokenizer = subject.encoder.tokenizer
    given = metrics.generate(subject.model, tokenizer, ids, batch_size=rows.batch_size, max_new_tokens=_MAX_NEW_TOKENS)
    return [text.strip() for text in tokenizer.batch_decode(given, skip_special_tokens=True)]


def _with_answer(example: Example, answer: str) -> Example:
    """A row with a model's own answer in place of the one that it holds."""
    prompt = prompt_of(example)
    if isinstance(prompt, str):
        return Example(example.where, "pair", {"prompt": prompt, "completion": answer})
    turns = [*prompt, {"role": "assistant", "content": answer}]
    return Example(example.where, "messages", {"messages": turns})


_MEASURES: Mapping[str, Callable[[Subject, Rows], Values]] = {
    PERPLEXITY: _perplexity,
    ANSWERS: _answers,
    PREFERENCES: _preferences,
    REWARD: _reward,
}


def line(name: str, columns: Mapping[str, Values]) -> dict[str, Any]:
    """What models reached in a measure, each with an interval, and of two the difference."""
    found: dict[str, Any] = {"name": name, "higher_is_better": name not in LOWER}
    for column, values in columns.items():
        if values.tokens is not None:
            found[column] = intervals.perplexity(values.rows, values.tokens)
        else:
            found[column] = intervals.estimate(values.rows)
    if len(columns) == 2:
        before, after = columns.values()
        if before.tokens is not None:
            found["difference"] = intervals.perplexity_difference(before.rows, after.rows, before.tokens)
        else:
            found["difference"] = intervals.difference(before.rows, after.rows)
    return found
