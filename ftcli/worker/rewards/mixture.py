"""The reward of sampled answers: rules, a reward model, an AI judge and user functions, as a weighted sum."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ftcli.core.errors import ConfigError, DataError, FtcliError, NotFinite, Problem
from ftcli.core.module_source import is_file_of_code
from ftcli.data.formats.columns import VARIABLES
from ftcli.data.formats.conversations import answer_to
from ftcli.data.scan import Example
from ftcli.rewards import rules
from ftcli.rewards.rules import Answered
from ftcli.worker.inference.answer_reader import AnswerReader
from ftcli.worker.inference.examples import answered_of
from ftcli.worker.inference.kept_answers import KeptAnswers
from ftcli.worker.inference.metrics import Counts
from ftcli.worker.inference.reward_model import RewardModel
from ftcli.worker.inference.sampling import Sampled, sample
from ftcli.worker.process.exhausted import as_situation
from ftcli.worker.rewards.ai_judge import judge_of
from ftcli.worker.tokenise.encoder import Encoder

TOGETHER = 64
"""Answers that are generated together where no setting says how many."""


class Rewards:
    """The rewards that a spec's `method` tree configures."""

    def __init__(self, method: Mapping[str, Any], encoder: Encoder, request: dict[str, Any]) -> None:
        """
        Args:
            request: the grants under which a reward model is loaded.

        Raises:
            ConfigError: a reward model or function that does not exist.
        """
        self.encoder, self.reader = encoder, AnswerReader(encoder)
        self.rules = rules.weighted_rewards(method.get("rewards"))
        self.functions = {name: _function(name) for name in method.get("reward_functions") or {}}
        name = method.get("reward_model")
        self.reward_model = RewardModel(str(name), request) if name else None
        self.judge = judge_of(method, request)
        self.names = ["reward_model"] if self.reward_model else []
        self.names += ["judge"] if self.judge else []
        self.names += [*(rule.name for rule in self.rules), *map(_shown, self.functions)]
        given = [float(method.get("reward_model_weight") or 1.0)] if self.reward_model else []
        given += [float(method.get("judge_weight") or 1.0)] if self.judge else []
        given += [rule.weight for rule in self.rules]
        given += [float(weight) for weight in (method.get("reward_functions") or {}).values()]
        self.weights = torch.tensor(given)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The lowest and the highest reward possible; None where a reward model or a function knows no bounds."""
        if self.reward_model or self.functions:
            return None
        weights = self.weights.tolist()  # rules and the judge's probability are between 0 and 1
        return sum(min(weight, 0.0) for weight in weights), sum(max(weight, 0.0) for weight in weights)

    def check(self, rows: Any, name: str) -> None:
        """Refuse rows without a column that a rule reads.

        Raises:
            DataError: names the column and how many rows lack it.
        """
        wanted = {column: rule.name for rule in self.rules for column in rule.columns()}
        lacking = dict.fromkeys(wanted, 0)
        for text in rows["row"] if wanted and rows is not None else ():
            row = json.loads(text)
            for column in wanted:
                lacking[column] += column not in row
        problems = [
            Problem(name, f"{count} rows have no column {column!r}, which method.rewards.{wanted[column]} reads")
            for column, count in lacking.items()
            if count
        ]
        if problems:
            raise DataError(*problems)

    def __call__(self, sampled: Sequence[Sampled]) -> Tensor:
        """Each component's reward of each answer, before its weight, of shape (answers, components), float32.

        Raises:
            NotFinite: one of them is not finite.
        """
        rows = [json.loads(each.row) for each in sampled]
        answered = [self._read(each, row) for each, row in zip(sampled, rows, strict=True)]
        parts = [self._scored(sampled, rows, answered)] if self.reward_model else []
        parts += [self.judge([row["prompt"] for row in rows], [each.text for each in answered])] if self.judge else []
        parts += [[rule(each) for each in answered] for rule in self.rules]
        for name, function in self.functions.items():
            parts.append(_called(name, function, sampled, rows, answered))
        found = torch.tensor(parts, dtype=torch.float32).T.reshape(len(sampled), len(self.names))
        for answer, part in (~found.isfinite()).nonzero().tolist():
            asked = json.dumps(rows[answer]["prompt"], ensure_ascii=False)
            what = f"the reward of an answer became {float(found[answer, part])}; its prompt: {asked}"
            raise NotFinite(Problem(self.names[part], what, "give every answer a finite reward"))
        return found

    def _read(self, sampled: Sampled, row: Mapping[str, Any]) -> Answered:
        ids = (sampled.prompt_ids, sampled.answer_ids)
        final, whole = self.reader.final(*ids), self.reader.whole(*ids)
        return Answered(final, row, len(sampled.answer_ids), sampled.ended, whole)

    def of_greedy(
        self,
        model: Any,
        examples: Sequence[Example],
        max_new_tokens: int,
        batch_size: int = TOGETHER,
        kept: KeptAnswers | None = None,
    ) -> Counts:
        """The summed reward of greedy answers, in total and per component, each with the number of answers.

        Args:
            kept: takes some of them.
        """
        rows = [each.columns for each in self.encoder.encode(examples)]
        how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": 0, "batch_size": batch_size}
        sampled = sample(model, self.encoder.tokenizer, rows, **how)
        parts = self(sampled)
        total = self.total(parts)
        if kept is not None:
            answers = [each.answer_ids for each in sampled]
            prompts = [each.prompt_ids for each in sampled]
            kept.add([each.where for each in examples], prompts, answers, rewards=total.tolist())
        counts: Counts = {"mean_reward": (float(total.sum()), len(rows))}
        if len(self.names) > 1:
            counts |= {name: (float(parts[:, i].sum()), len(rows)) for i, name in enumerate(self.names)}
        return counts

    def total(self, parts: Tensor) -> Tensor:
        """The weighted sum of the components, of shape (answers,)."""
        return parts @ self.weights

    def _scored(self, sampled: Sequence[Sampled], rows: list[dict[str, Any]], answered: list[Answered]) -> list[float]:
        assert self.reward_model is not None
        if self.reward_model.encoder.identity() == self.encoder.identity():
            return self.reward_model.score([each.prompt_ids + each.answer_ids for each in sampled])
        # Another tokenizer: the reward model reads the same text through its own.
        pairs = [
            Example("a sampled answer", "pair", {**_of_request(row), "completion": answer_to(row["prompt"], a.text)})
            for row, a in zip(rows, answered, strict=True)
        ]
        return self.reward_model.score([answered_of(each)[0] for each in self.reward_model.encode(pairs)])


def _of_request(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is sent of a row: the prompt, with the tools and the variables of the chat template."""
    return {name: row[name] for name in ("prompt", "tools", VARIABLES) if name in row}


def _function(name: str) -> Callable[..., Any]:
    """The function `file.py:name` or `package.module:name`.

    Raises:
        ConfigError: there is none.
    """
    place, _, attribute = name.rpartition(":")
    try:
        module = _module_in(place) if is_file_of_code(place) else importlib.import_module(place)
        found = getattr(module, attribute)
    except (Exception, SystemExit) as error:  # importing runs the module, which may raise anything
        if not isinstance(error, ImportError | OSError) and as_situation(error) is not None:
            raise
        kind = "" if isinstance(error, ImportError | AttributeError | OSError) else f"{type(error).__name__}: "
        what = f"{name} cannot be imported: {kind}{error}"
        fix = "write file.py:function, or package.module:function with a module that can be imported here"
        raise ConfigError(Problem("method.reward_functions", what, fix)) from None
    if not callable(found):
        raise ConfigError(Problem("method.reward_functions", f"{name} is not a function", "name a function"))
    return found  # type: ignore[no-any-return]


def _module_in(file: str) -> ModuleType:
    """The module in a file, executed once however many functions of it are named."""
    name = "ftcli_rewards_in_" + re.sub(r"\W", "_", file)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # as dataclasses and pickle look a class's module up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _shown(name: str) -> str:
    """The name of a function in metrics: of one in a file without the folders."""
    place, _, attribute = name.rpartition(":")
    return f"{Path(place).name}:{attribute}" if is_file_of_code(place) else name


def _called(
    name: str, function: Any, sampled: Sequence[Sampled], rows: list[dict[str, Any]], answered: list[Answered]
) -> list[float]:
    """A user function, called as TRL calls reward functions: prompts, completions, completion_ids, and the columns.

    Raises:
        ConfigError: it raises an error, or does not return one number per answer.
    """
    columns = {key: [row.get(key) for row in rows] for key in rows[0] if key != "prompt"}
    completions = [answer_to(row["prompt"], each.text) for row, each in zip(rows, answered, strict=True)]
    ids = [each.answer_ids for each in sampled]
    try:
        found = function(
            prompts=[row["prompt"] for row in rows], completions=completions, completion_ids=ids, **columns
        )
        found = list(found) if isinstance(found, Iterator) else found
    except (Exception, SystemExit) as error:
        if isinstance(error, FtcliError) or as_situation(error) is not None:  # such as out of memory
            raise
        raise _raised(name, error, completions[0]) from error
    try:
        values = [float(value) for value in found]
    except (TypeError, ValueError):
        values = []
    if len(values) != len(rows):
        what = f"{name} did not return one number for each of {len(rows)} answers"
        raise ConfigError(Problem("method.reward_functions", what, "return a list with one number per answer"))
    return values


def _raised(name: str, error: BaseException, completion: Any) -> ConfigError:
    """What a user function raised, and at which line of its own file."""
    file = name.rpartition(":")[0]
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if frame.filename == file] or frames
    at = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    fix = "correct the function"
    if not isinstance(completion, str):
        fix += ": where prompts are turns each completion is a list of turns, and completion[0]['content'] its text"
    what = f"{name} raised {type(error).__name__}{at}: {error}"
    return ConfigError(Problem("method.reward_functions", what, fix))
