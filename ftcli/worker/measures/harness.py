"""Tasks of lm-evaluation-harness on a model in this process, which answers as it is served.

Departs from its command line in what a user would otherwise have to know: prompts go through the model's own chat
template, whose text gets no second BOS; answers end at the end tokens that the model was trained with, and the white
space that the template writes around an answer is no part of it.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jinja2.exceptions import SecurityError, UndefinedError
from lm_eval.api import metrics as _registers_metrics  # noqa: F401
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from ftcli.core.errors import ConfigError, Problem
from ftcli.worker.inference.metrics import undisturbed
from ftcli.worker.inference.sampling import until_end
from ftcli.worker.measures import intervals
from ftcli.worker.measures.harness_tasks import first_line
from ftcli.worker.measures.subjects import Subject
from ftcli.worker.process import interruption
from ftcli.worker.process.activity import phase

BATCH = 8

Values = dict[tuple[str, str, str], "Column"]
"""What was found by task, metric and filter."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One metric of one task on one model."""

    value: float
    error: float | None
    """Its standard error, as lm-evaluation-harness gives it."""
    rows: dict[int, float] | None
    """The value of each row by its number, where their mean is the metric."""
    count: int
    higher_is_better: bool | None


class Served(HFLM):
    """A model as it is served: its template's text is taken as it is, and its answers end where it ends them."""

    def __init__(self, subject: Subject, batch_size: int) -> None:
        # The text of a template says whether it begins with BOS; the tokenizer adds none to it in serving either.
        bos = False if subject.encoder.has_template else None
        super().__init__(
            pretrained=subject.model, tokenizer=subject.encoder.tokenizer, batch_size=batch_size, add_bos_token=bos
        )
        self._ends = subject.encoder.stop_ids
        self._opening, self._lead = _of_template(subject) if subject.encoder.has_template else ("", "")
        self._done = 0
        self._total: int | None = None

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        """Text up to the first end token, which some tokenizers do not count as special."""
        if skip_special_tokens:
            ids, ended = until_end(list(tokens), self._ends) if isinstance(tokens, list) else (tokens, False)
            tokens = ids[:-1] if ended else ids
        text: str = super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)
        return text

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Without a bar of its own, as the following."""
        self._done, self._total = 0, len(requests)
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As `loglikelihood`."""
        self._done, self._total = 0, None
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As `loglikelihood`."""
        self._done, self._total = 0, len(requests)
        texts = super().generate_until(requests, disable_tqdm=True)
        return (
            [text.strip() for text in texts] if self._opening else texts
        )  # the template's own white space is no answer

    def _encode_pair(self, context: str, continuation: str) -> Any:
        """A choice as the template would write it: some put a space before each answer."""
        if self._lead and context.endswith(self._opening) and not continuation[:1].isspace():
            continuation = self._lead + continuation
        return super()._encode_pair(context, continuation)

    def _model_call(self, inps: Any, *arguments: Any, **named: Any) -> Any:
        self._reached(len(inps))
        return super()._model_call(inps, *arguments, **named)

    def _model_generate(self, context: Any, *arguments: Any, **named: Any) -> Any:
        self._reached(len(context))
        return super()._model_generate(context, *arguments, **named)

    def _reached(self, rows: int) -> None:
        self._done += rows
        total = self._total
        interruption.reached(self._done if total is None else min(self._done, total), total, "answers")


def _of_template(subject: Subject) -> tuple[str, str]:
    """How the chat template begins an answer, and the white space that it writes before the answer's text."""
    question, answer = "question-7f3a", "answer-9c1e"
    render = subject.encoder.tokenizer.apply_chat_template
    turns = [{"role": "user", "content": question}]
    opening = render(turns, tokenize=False, add_generation_prompt=True)
    whole = render([*turns, {"role": "assistant", "content": answer}], tokenize=False)
    lead = whole[len(opening) : whole.find(answer)] if whole.startswith(opening) else ""
    return opening.rpartition(question)[2], lead if lead.isspace() else ""


def run_tasks(subject: Subject, tasks: Mapping[str, Task], request: Mapping[str, Any]) -> Values:
    """What a model reaches on tasks.

    Args:
        request: {"rows": most of each task, "shots": examples in the prompt, or None, "batch_size": rows
            together, "task_code": whether what the model writes may be run}.

    Raises:
        ConfigError: lm-evaluation-harness cannot measure the model on one.
    """
    lm = Served(subject, request.get("batch_size") or BATCH)
    with undisturbed(), phase(f"measuring {subject.name}"), _lengths_of_tasks(subject.model):
        try:
            found = evaluate(
                lm=lm,
                task_dict={"tasks": _prepared(tasks, request.get("shots"))},
                limit=request.get("rows"),
                apply_chat_template=subject.encoder.has_template,
                fewshot_as_multiturn=True,
                confirm_run_unsafe_code=bool(request.get("task_code")),
                log_samples=True,
                bootstrap_iters=1000,
            )
        except (ValueError, AssertionError, TypeError, LookupError, UndefinedError, SecurityError) as error:
            where, fix = f"--tasks {','.join(tasks)}", "see whether the task's templates and splits fit its rows"
            raise ConfigError(Problem(where, f"cannot be measured: {first_line(error)}", fix)) from None
    return dict(_columns(found))


def _prepared(tasks: Mapping[str, Task], shots: int | None) -> dict[str, Task]:
    """The tasks with their examples in the prompt, drawn by the seeds of lm-evaluation-harness."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    for task in tasks.values():
        own = task.get_config("num_fewshot")
        if own is None or (shots is not None and own != 0):  # 0 is said by a task that is not to have any
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    return dict(tasks)


@contextmanager
def _lengths_of_tasks(model: Any) -> Iterator[None]:
    """Let a task say how long an answer may be, where the model's own settings would win."""
    config = model.generation_config
    own, config.max_new_tokens = config.max_new_tokens, None
    try:
        yield
    finally:
        config.max_new_tokens = own


def _columns(found: Any) -> Iterator[tuple[tuple[str, str, str], Column]]:
    for task, results in found["results"].items():
        samples = (found.get("samples") or {}).get(task, [])
        better = (found.get("higher_is_better") or {}).get(task) or {}
        for key, value in results.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = results.get(f"{metric}_stderr,{chosen}")
            rows = _rows(samples, metric, chosen, float(value))
            count = len([each for each in samples if each["filter"] == chosen]) or _count(found, task)
            known = float(error) if isinstance(error, int | float) else None
            yield (task, metric, chosen), Column(float(value), known, rows, count, better.get(metric))


def _count(found: Any, task: str) -> int:
    """The rows of a group."""
    return sum(each["effective"] for each in (found.get("n-samples") or {}).values()) if task else 0


def _rows(samples: Sequence[Mapping[str, Any]], metric: str, chosen: str, value: float) -> dict[int, float] | None:
    """The value of each row, where their mean is the metric."""
    rows = {each["doc_id"]: each.get(metric) for each in samples if each["filter"] == chosen}
    if not rows or not all(isinstance(each, bool | int | float | np.number) for each in rows.values()):
        return None
    numbers = {number: float(each) for number, each in rows.items() if each is not None}
    return numbers if abs(float(np.mean([*numbers.values()])) - value) < 1e-6 else None


def table(columns: Mapping[str, Values]) -> list[dict[str, Any]]:
    """What models reached, a line for each metric of each task: each with an interval, and of two the difference."""
    first = next(iter(columns.values()))
    lines = []
    for key in first:
        found = {name: values[key] for name, values in columns.items() if key in values}
        task, metric, chosen = key
        shown = f"{task} {metric}" if chosen == "none" else f"{task} {metric} ({chosen})"
        line: dict[str, Any] = {"name": shown, "task": task, "metric": metric, "filter": chosen}
        line["higher_is_better"] = first[key].higher_is_better
        for name, column in found.items():
            line[name] = _estimate(column)
        if len(found) == 2:
            line["difference"] = _difference(*found.values())
        lines.append(line)
    return lines


def _estimate(column: Column) -> dict[str, Any]:
    if column.rows is not None:
        return intervals.estimate([*column.rows.values()])
    if column.error is not None:
        return intervals.of_error(column.value, column.error, column.count)
    return {"value": column.value, "rows": column.count}


def _difference(before: Column, after: Column) -> dict[str, Any]:
    if before.rows is not None and after.rows is not None and before.rows.keys() == after.rows.keys():
        return intervals.difference([*before.rows.values()], [after.rows[row] for row in before.rows])
    change = after.value - before.value
    if before.error is None or after.error is None:
        return {"value": change, "rows": after.count}
    return intervals.of_error(change, (before.error**2 + after.error**2) ** 0.5, after.count)
