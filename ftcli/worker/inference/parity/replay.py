"""The trainer's own side of a comparison with a served model: how its prompts become tokens, and what it answers.

First come the run's held-out prompts with their tokens and greedy answers. Then, of what a served model answered, how
likely each token is by the run's model; and where it is another answer than the run's, by what else may be served: the
weights rounded as they are stored elsewhere, the model before training, and the run's checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from ftcli.data.formats.columns import VARIABLES
from ftcli.data.scan import Example
from ftcli.runs import rundir
from ftcli.runs.measured_attention import as_measured
from ftcli.settings.groups import as_saved
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.inference.answer_reader import AnswerReader
from ftcli.worker.inference.examples import prompt_of
from ftcli.worker.inference.held_out import held_out
from ftcli.worker.inference.metrics import generate
from ftcli.worker.inference.parity.served_weights import candidates, embedding_difference, scored
from ftcli.worker.models.answer_ends import ending_as
from ftcli.worker.models.load import as_granted, best_device, load_trained, make_encoder
from ftcli.worker.tokenise.encoder import Ids
from ftcli.worker.tokenise.serving_parity import turn_end

Answer = dict[str, Any]
EXACT = 1e-3
"""Mean difference in nats below which two models are the same: float32 on two machines differs by less."""


class Replay:
    """A run's model, its prompts and its answers."""

    def __init__(self, request: dict[str, Any]) -> None:
        """
        Args:
            request: {"run", "rows": how many prompts, "data": a file with others or None, "max_new_tokens",
                "trust_remote_code"}.

        Raises:
            ConfigError: no such run, or it has no held-out rows.
            DataError: unusable rows, or none that fits.
        """
        self.run = rundir.require_run(request["run"], "RUN")
        stored = as_measured(RunSpec.load(self.run / rundir.SPEC), self.run)
        self.device = best_device()
        model = stored.model if self.device == stored.launch.device else replace(stored.model, dtype="auto")
        self.spec = replace(stored, model=as_granted(model, request))
        self.trained = as_saved(self.spec.model, str(self.run))
        self.encoder = make_encoder(self.trained)
        self.longest = int(request["max_new_tokens"])
        rows, data = int(request["rows"]), request.get("data")
        self.examples = held_out(self.spec, self.run, self.encoder, rows, data=data).examples
        how: dict[str, Any] = {"seed": self.spec.seed, "device": self.device, "quantisation": self.spec.quantisation}
        found: Any = ending_as(load_trained(self.trained, **how), self.encoder)
        self.model = found if self.spec.quantisation.type != "none" else found.to(self.device)

    def questions(self) -> Iterator[Answer]:
        """Each prompt as a server is asked it, with the tokens and the answer that it should come to."""
        tokenizer, reader = self.encoder.tokenizer, AnswerReader(self.encoder)
        prompts = [_prompt(example) for example in self.examples]
        ids = [self.encoder.prompt_ids(*each) for each in zip(prompts, _rows(self.examples), strict=True)]
        with torch.no_grad():
            answers = generate(self.model, tokenizer, ids, max_new_tokens=self.longest)
        for prompt, example, own, answer in zip(prompts, self.examples, ids, answers, strict=True):
            yield {
                "kind": "question",
                "request": _request(prompt, example),
                "where": example.where,
                "ids": own,
                "text": tokenizer.decode(own, skip_special_tokens=False),
                "answer_ids": answer,
                "answer": tokenizer.decode(answer, skip_special_tokens=True),
                "final": reader.final(own, answer),
                "ended": bool(answer) and answer[-1] in self.encoder.stop_ids,
            }

    def about(self, *, tokens: bool) -> Answer:
        """What the run's model is; with `tokens`, its whole vocabulary in order."""
        tokenizer = self.encoder.tokenizer
        template = tokenizer.chat_template
        bos, end = tokenizer.bos_token_id, turn_end(tokenizer) if self.encoder.has_template else None
        config = self.model.config.get_text_config()
        return {
            "kind": "about",
            "ends": {str(i): tokenizer.convert_ids_to_tokens(i) for i in sorted(self.encoder.stop_ids)},
            "end": tokenizer.eos_token_id if end is None else end,
            "bos": None if bos is None else {"id": bos, "text": tokenizer.bos_token},
            "template": template.get("default") if isinstance(template, dict) else template,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "sizes": {"n_embd": config.hidden_size, "n_layer": config.num_hidden_layers},
            "tokens": tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) if tokens else None,
        }

    def judged(self, questions: Sequence[Answer], served: Sequence[Answer], embeddings: Any) -> Answer:
        """What a served model's answers are by the run's model, and by what else may be served.

        Args:
            served: for each question {"prompt_ids": its tokens at the server, or None, "ids" and "logps": of the
                answer, or None, "text", "ended"}.
            embeddings: where the token embeddings of the served file are, or None.
        """
        pairs = [self._pair(*each) for each in zip(questions, served, strict=True)]
        given = [each.get("logps") for each in served]
        trained = scored(self.model, pairs, given)
        decoded = self.encoder.tokenizer.decode
        found: Answer = {
            "kind": "judged",
            "trained": trained,
            "prompts": [
                decoded(each["prompt_ids"], skip_special_tokens=False) if each.get("prompt_ids") else None
                for each in served
            ],
            "ids": [ids for _, ids in pairs],
            "embeddings": embedding_difference(self.model, embeddings),
            "others": {},
        }
        if trained["mean"] > EXACT or trained["regret"] > EXACT:
            found["others"] = dict(candidates(self.model, self.spec, self.run, self.device, pairs, given))
        return found

    def _pair(self, question: Answer, served: Answer) -> tuple[Ids, Ids]:
        """The tokens of a prompt as the server read it, as far as it says, and those of its answer."""
        prompt = served.get("prompt_ids") or question["ids"]
        if served.get("ids") is not None:
            return prompt, served["ids"]
        if (
            served["text"].strip() in (question["answer"].strip(), question["final"])
            and served["ended"] == (question["ended"])
        ):
            return prompt, question["answer_ids"]
        ids: Ids = self.encoder.tokenizer(served["text"], add_special_tokens=False)["input_ids"]
        return prompt, ids[: self.longest]


def _prompt(example: Example) -> Any:
    """What the model is asked: the prompt of a row, or of a row of plain text its first half."""
    if "text" not in example.value:
        return prompt_of(example)
    text = str(example.value["text"])
    return text[: len(text) // 2] or text


def _rows(examples: Sequence[Example]) -> list[dict[str, Any]]:
    return [example.value if "text" not in example.value else {} for example in examples]


def _request(prompt: Any, example: Example) -> Answer:
    """A prompt in the words of an endpoint of OpenAI's form."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    more = {name: example.value[name] for name in ("tools", VARIABLES) if example.value.get(name)}
    return {"messages": prompt, **more}


def replay(request: dict[str, Any], replies: Iterator[str]) -> Iterator[Answer]:
    """The run's side, then its judgement on what was served.

    Args:
        request: as for Replay, and {"tokens": whether the vocabulary is wanted, "folder": a model folder to answer
            here in place of a server, or None}.
        replies: one line: {"served": as in `judged`, "embeddings"}.

    Raises:
        ConfigError: as Replay.
    """
    own = Replay(request)
    yield own.about(tokens=bool(request.get("tokens")))
    questions = [*own.questions()]
    yield from questions
    if request.get("folder"):
        from ftcli.worker.inference.parity.served_folder import answers_of

        served, embeddings = answers_of(request["folder"], questions, own.longest, request)
        yield {"kind": "served", "answers": served}
    else:
        yield {"kind": "ready"}
        if not (line := next(replies, "")):  # nobody could be asked
            return
        reply = json.loads(line)
        served, embeddings = reply["served"], reply.get("embeddings")
    yield own.judged(questions, served, embeddings)
