"""The local backend: a model that answers synthesis questions and gives the probability of each choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import set_seed

from ftcli.data.formats.conversations import answer_to
from ftcli.data.scan import Example
from ftcli.settings.backends import BackendSettings
from ftcli.settings.groups import ModelSettings
from ftcli.synthesis.backend import Question, Reply
from ftcli.worker.inference.answer_reader import AnswerReader
from ftcli.worker.inference.examples import answered_of
from ftcli.worker.inference.metrics import logps
from ftcli.worker.inference.sampling import sample
from ftcli.worker.models.answer_ends import answering
from ftcli.worker.models.load import as_granted, make_encoder
from ftcli.worker.tokenise.encoder import Encoder, Ids


class LocalModel:
    """A model or finished run through transformers. The questions of a batch are answered together."""

    concurrency = 1

    def __init__(self, settings: BackendSettings, key: str, request: dict[str, Any]) -> None:
        """
        Args:
            key: the role's name; unused, since errors name the model.
            request: the grants for loading it.

        Raises:
            ConfigError: there is no such model.
        """
        assert settings.model is not None
        self.batch_size: int | None = settings.batch_size
        self.name = settings.model
        found = as_granted(ModelSettings(name_or_path=settings.model, revision=settings.revision), request)
        self.encoder = make_encoder(found)
        self.reader = AnswerReader(self.encoder)
        self.model: Any = answering(found, self.encoder)
        self.requests = self.prompt_tokens = self.answer_tokens = 0

    def replies(self, questions: Sequence[Question]) -> list[Reply]:
        """As in the protocol. The first question's seed sets the random state, so a repeated batch is the same."""
        found: list[Reply | None] = [None] * len(questions)
        chosen = [i for i, question in enumerate(questions) if question.choices]
        for i, reply in zip(chosen, self._choices([questions[i] for i in chosen]), strict=True):
            found[i] = reply
        ways = dict.fromkeys(
            (question.temperature, question.max_new_tokens) for question in questions if not question.choices
        )
        for way in ways:
            own = [
                i
                for i, question in enumerate(questions)
                if not question.choices and (question.temperature, question.max_new_tokens) == way
            ]
            for i, reply in zip(own, self._answers([questions[i] for i in own]), strict=True):
                found[i] = reply
        replies = [reply for reply in found if reply is not None]
        self.requests += len(replies)
        self.prompt_tokens += sum(reply.prompt_tokens for reply in replies)
        self.answer_tokens += sum(reply.answer_tokens for reply in replies)
        return replies

    def _answers(self, questions: Sequence[Question]) -> list[Reply]:
        set_seed(questions[0].seed)
        rows = [{"prompt_ids": self.encoder.prompt_ids(question.turns), "row": "{}"} for question in questions]
        temperature, longest = questions[0].temperature, questions[0].max_new_tokens
        tokenizer = self.encoder.tokenizer
        sampled = sample(self.model, tokenizer, rows, max_new_tokens=longest, temperature=temperature)
        return [
            Reply(
                text=self.reader.final(each.prompt_ids, each.answer_ids),
                prompt_tokens=len(each.prompt_ids),
                answer_tokens=len(each.answer_ids),
            )
            for each in sampled
        ]

    def _choices(self, questions: Sequence[Question]) -> list[Reply]:
        """The most likely choice per question, with every choice's log-probability, end token included."""
        prompts, answers = pairs_of(self.encoder, questions)
        with torch.no_grad():
            sums, _ = logps(self.model, self.encoder, prompts, answers, None)
        found, start = [], 0
        for question in questions:
            own = tuple(float(value) for value in sums[start : start + len(question.choices)])
            text = question.choices[own.index(max(own))]
            found.append(Reply(text=text, choice_logps=own, prompt_tokens=len(prompts[start]), answer_tokens=1))
            start += len(question.choices)
        return found

    def about(self) -> dict[str, Any]:
        """As in the protocol."""
        used = {"requests": self.requests, "prompt_tokens": self.prompt_tokens, "answer_tokens": self.answer_tokens}
        return {"type": "local", "model": self.name, **used}


def pairs_of(encoder: Encoder, questions: Sequence[Question]) -> tuple[list[Ids], list[Ids]]:
    """Per question and choice: the tokens of the question, and those of the choice with its end token."""
    pairs = [
        Example("a question", "pair", {"prompt": question.turns, "completion": answer_to(question.turns, choice)})
        for question in questions
        for choice in question.choices
    ]
    prompts = [encoder.prompt_ids(question.turns) for question in questions for _ in question.choices]
    whole = [answered_of(encoded)[0] for encoded in encoder.encode(pairs)]
    return prompts, [ids[len(prompt) :] for prompt, ids in zip(prompts, whole, strict=True)]
