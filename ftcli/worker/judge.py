"""A reward model at work: scores of rows, and of answers that a model samples to their prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from transformers import set_seed

from ftcli.core.errors import ConfigError, Problem
from ftcli.data import row_sets
from ftcli.data.ledger import Ledger, refuse_bad_rows
from ftcli.data.row_sets import RowSet
from ftcli.data.scan import Example, Scan
from ftcli.data.turns import answer_to, only_read
from ftcli.methods import get_method
from ftcli.models.sources import head_of
from ftcli.settings.groups import ModelSettings, SetSettings
from ftcli.worker.generate import sampling
from ftcli.worker.model import as_granted, best_device, load_trained, make_encoder, resolve
from ftcli.worker.score import generate, scores
from ftcli.worker.tokens import IGNORED, Encoded, Ids

_SCORED = ("messages", "pair", "preference", "label")
_ASKED = ("prompt", "messages", "pair", "preference", "label")
_CHUNK = 256


class RewardModel:
    """A model with a score for a head, and its tokenizer."""

    def __init__(self, name: str, request: dict[str, Any]) -> None:
        """
        Raises:
            ConfigError: there is no such model, or it has no score.
        """
        settings = as_granted(ModelSettings(name_or_path=name), request)
        source = resolve(name)
        if source.folder is not None and head_of(source.folder) != "score":
            what = f"{name} puts out words and no score"
            raise ConfigError(Problem(name, what, "name a model that method=reward trained"))
        device = best_device()
        self.model = load_trained(settings, seed=0, device=device, head="score").to(device).eval()
        self.encoder = make_encoder(settings)

    def score(self, sequences: Sequence[Ids]) -> list[float]:
        """Of token sequences, each a prompt with its answer."""
        with torch.no_grad():
            (found,) = scores(self.model, self.encoder, [[] for _ in sequences], sequences)
        return [float(score) for score in found]


def score(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One {"where", "row", "score"} for each row, in order; of a preference "scores", chosen before rejected.

    Args:
        request: {"model": a reward model, "data": file, folder or hub id, "trust_remote_code": bool}.

    Raises:
        ConfigError: no such data, or no reward model.
        DataError: rows that are unusable.
    """
    judge = RewardModel(request["model"], request)
    for chunk in _chunks(request["data"], _SCORED):
        encoded = judge.encoder.encode(chunk)
        answered = [answered_of(each) for each in encoded]
        values = iter(judge.score([ids for each in answered for ids in each]))
        for example, own in zip(chunk, answered, strict=True):
            found = [next(values) for _ in own]
            scored = {"score": found[0]} if len(found) == 1 else {"scores": found}
            yield {"where": example.where, "row": example.value, **scored}


def sample(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One {"where", "prompt", "answers", "scores"} for each row; scores only with a reward model.

    Args:
        request: {"model", "data", "num_answers", "max_new_tokens", "temperature", "top_p", "seed", "reward": a reward
            model or None, "trust_remote_code": bool}.

    Raises:
        ConfigError: no such model or data.
        DataError: rows that are unusable.
    """
    settings = as_granted(ModelSettings(name_or_path=request["model"]), request)
    device = best_device()
    model = load_trained(settings, seed=0, device=device).to(device).eval()
    encoder = make_encoder(settings)
    judge = RewardModel(request["reward"], request) if request.get("reward") else None
    set_seed(request["seed"])
    count = int(request["num_answers"])
    how = sampling(request)
    if how.get("do_sample"):
        how["top_k"] = 0  # transformers would sample from the likeliest fifty alone
    for chunk in _chunks(request["data"], _ASKED):
        prompts = [prompt_of(example) for example in chunk]
        ids = [encoder.prompt_ids(prompt) for prompt in prompts for _ in range(count)]
        with torch.no_grad():
            said = generate(model, encoder.tokenizer, ids, **how)
        answers = [[text.strip() for text in said[i : i + count]] for i in range(0, len(said), count)]
        judged = _judged(judge, chunk, prompts, answers) if judge else [None] * len(chunk)
        for example, prompt, own, found in zip(chunk, prompts, answers, judged, strict=True):
            yield {"where": example.where, "prompt": prompt, "answers": own, **({"scores": found} if found else {})}


def answered_of(encoded: Encoded) -> list[Ids]:
    """The sequences of a row, each up to the end of its (last) answer."""
    columns = encoded.columns
    if "input_ids" in columns:
        labels = columns["labels"]
        end = max((i + 1 for i, label in enumerate(labels) if label != IGNORED), default=len(labels))
        return [columns["input_ids"][:end]]
    return [columns["prompt_ids"] + columns[side] for side in ("chosen_ids", "rejected_ids") if columns[side]]


def prompt_of(example: Example) -> Any:
    """What a row asks: text, or turns up to where the model would speak."""
    if "messages" not in example.value:
        return example.value["prompt"]
    turns = example.value["messages"]
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns))
    return only_read(turns[:last])


def _judged(
    judge: RewardModel, chunk: Sequence[Example], prompts: Sequence[Any], answers: Sequence[Sequence[str]]
) -> list[list[float]]:
    rows = [
        Example(example.where, "pair", {"prompt": prompt, "completion": answer_to(prompt, text)})
        for example, prompt, own in zip(chunk, prompts, answers, strict=True)
        for text in own
    ]
    found = judge.score([answered_of(each)[0] for each in judge.encoder.encode(rows)])
    size = len(answers[0])
    return [found[i : i + size] for i in range(0, len(found), size)]


def examples_of(path: str, kinds: tuple[str, ...] = _ASKED) -> Iterator[Example]:
    """The usable rows of a file, one after the other.

    Raises:
        DataError: one is unusable.
    """
    for chunk in _chunks(path, kinds):
        yield from chunk


def _chunks(path: str, kinds: tuple[str, ...]) -> Iterator[list[Example]]:
    """The usable rows of a file, so many at a time; one that is unusable ends it."""
    row_set = RowSet(name="data", key=path, settings=SetSettings(path=path))
    ledger = Ledger("data", path)
    method = replace(get_method("sft"), kinds=kinds)
    rows = iter(Scan(row_sets.fetched(row_set), row_set.settings, method, ledger, prompts=False))
    while chunk := list(islice(rows, _CHUNK)):
        refuse_bad_rows([ledger], 0.0)
        yield chunk
    refuse_bad_rows([ledger], 0.0)
