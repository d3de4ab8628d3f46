"""A model folder as a server on transformers would serve it: its own tokenizer, template, end tokens and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from ftcli.core.errors import ConfigError, Problem
from ftcli.models.sources import resolved_source
from ftcli.worker.inference.parity.served_weights import answer_logps, model_of, rows_of
from ftcli.worker.inference.sampling import until_end
from ftcli.worker.tokenise.special_tokens import end_ids

Answer = dict[str, Any]


def answers_of(
    folder: str, questions: Sequence[Answer], longest: int, request: dict[str, Any]
) -> tuple[list[Answer], Any]:
    """What the folder's model answers, as a server would say it, and its token embeddings.

    Unlike the trainer, a server knows nothing of a run: it takes the template and the end tokens that it finds.

    Raises:
        ConfigError: it cannot be loaded.
    """
    location = resolved_source(folder).location
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=bool(request.get("trust_remote_code")))
    except (OSError, ValueError) as error:
        what = f"its tokenizer cannot be loaded: {str(error).splitlines()[0]}"
        raise ConfigError(Problem(folder, what, "copy the files of the run's tokenizer there")) from None
    if "messages" in questions[0]["request"] and not tokenizer.chat_template:
        what = "its tokenizer has no chat template, so it cannot be asked what the run was"
        raise ConfigError(Problem(folder, what, "copy the run's chat_template.jinja there"))
    model = model_of(folder)
    ends = end_ids(model.generation_config)
    found = []
    for question in questions:
        ids = _prompt(tokenizer, question["request"])
        config = GenerationConfig(
            do_sample=False, eos_token_id=ends or None, pad_token_id=(ends or [0])[0], max_new_tokens=longest
        )
        inputs = torch.tensor([ids])
        output = model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
        answer, ended = until_end(output[0, len(ids) :].tolist(), ends)
        logps = answer_logps(model, (ids, answer))
        text = tokenizer.decode(answer, skip_special_tokens=True)
        found.append({"prompt_ids": ids, "ids": answer, "logps": logps, "text": text, "ended": ended})
    return found, {"values": rows_of(model)}


def _prompt(tokenizer: Any, request: Answer) -> list[int]:
    if "prompt" in request:
        found: list[int] = tokenizer(request["prompt"])["input_ids"]
        return found
    more = {"tools": request["tools"]} if request.get("tools") else {}
    given = {**more, **(request.get("chat_template_kwargs") or {})}
    ids: list[int] = tokenizer.apply_chat_template(
        request["messages"], add_generation_prompt=True, tokenize=True, return_dict=False, **given
    )
    return ids
