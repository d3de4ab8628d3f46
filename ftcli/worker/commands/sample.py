"""`sample`: several sampled answers per prompt of a file, optionally scored by a reward model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import set_seed

from ftcli.data.formats.conversations import answer_to
from ftcli.data.scan import Example, as_written
from ftcli.settings.groups import ModelSettings
from ftcli.worker.inference.answer_reader import AnswerReader
from ftcli.worker.inference.chat import sampling
from ftcli.worker.inference.examples import ASKABLE, answered_of, chunks_of, prompt_of, reads_text_as_turns
from ftcli.worker.inference.metrics import generate
from ftcli.worker.inference.reward_model import RewardModel
from ftcli.worker.models.answer_ends import answering
from ftcli.worker.models.load import as_granted, make_encoder
from ftcli.worker.process.command import lines


def sample(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields {"where", "prompt", "answers", "scores"} per row; scores only with a reward model.

    Args:
        request: {"model", "data", "num_answers", "max_new_tokens", "temperature", "top_p", "seed", "reward": a reward
            model or None, "trust_remote_code": bool}.

    Raises:
        ConfigError: no such model or data.
        DataError: unusable rows.
    """
    settings = as_granted(ModelSettings(name_or_path=request["model"]), request)
    encoder = make_encoder(settings)
    reader = AnswerReader(encoder)
    model = answering(settings, encoder)
    judge = RewardModel(request["reward"], request) if request.get("reward") else None
    set_seed(request["seed"])
    count = int(request["num_answers"])
    how = sampling(request)
    if how.get("do_sample"):
        how["top_k"] = 0  # transformers' default would sample from the 50 most likely tokens only
    for chunk in chunks_of(request["data"], ASKABLE, has_template=reads_text_as_turns(request["model"], encoder)):
        ids = [encoder.prompt_ids(prompt_of(example), example.value) for example in chunk for _ in range(count)]
        chunk = [example._replace(value=as_written(example)) for example in chunk]
        prompts = [prompt_of(example) for example in chunk]
        with torch.no_grad():
            said = generate(model, encoder.tokenizer, ids, **how)
        final = [reader.final(*each) for each in zip(ids, said, strict=True)]
        answers = [final[i : i + count] for i in range(0, len(final), count)]
        judged = _judged(judge, chunk, prompts, answers) if judge else [None] * len(chunk)
        for example, prompt, own, found in zip(chunk, prompts, answers, judged, strict=True):
            yield {"where": example.where, "prompt": prompt, "answers": own, **({"scores": found} if found else {})}


def _judged(
    judge: RewardModel, chunk: Sequence[Example], prompts: Sequence[Any], answers: Sequence[Sequence[str]]
) -> list[list[float]]:
    rows = [
        Example(example.where, "pair", {"prompt": prompt, "completion": answer_to(prompt, text)})
        for example, prompt, own in zip(chunk, prompts, answers, strict=True)
        for text in own
    ]
    found = judge.score([answered_of(each)[0] for each in judge.encode(rows)])
    size = len(answers[0])
    return [found[i : i + size] for i in range(0, len(found), size)]


COMMAND = lines(sample, "sampling answers")
