"""Examples → tokens and labels for one tokenizer, in batches; every fault is reported with its place.

A conversation is rendered with the tokenizer's own chat template, as it will be served. Each assistant turn is compared
with serving (serving_parity.py): its prompt must be what the template renders for the turns before it, token by token,
and only the answer and its end token are trained. So these tokens are those of TRL 1.16 (tests compare), except that
white space which templates write after the end token is read and not trained: no model ever generates it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

from tokenizers import Encoding
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ftcli.core.errors import ConfigError, DataError, Problem
from ftcli.data.quality_checks import QualityIssue
from ftcli.data.row_ledger import BOUNDARY
from ftcli.data.scan import Example, as_written
from ftcli.models.templates.added_tokens import AddedTokens, closed
from ftcli.models.templates.chat_template import without_defaults
from ftcli.worker.tokenise.answer_spans import common
from ftcli.worker.tokenise.left_out import left_out
from ftcli.worker.tokenise.serving_parity import Rendered, Serving
from ftcli.worker.tokenise.special_tokens import SpecialTokens, Turns

_TEXT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "pair": ("prompt", "completion"),
    "label": ("prompt", "completion"),
    "preference": ("prompt", "chosen", "rejected"),
    "prompt": ("prompt",),
}
"""The columns of text that become tokens, by dataset type."""

IGNORED = -100
"""The label of a token that is read but not trained."""

Ids = list[int]
_BATCH = 2048


@dataclass
class Encoded:
    """The tokens of one row.

    `columns` holds, by dataset type:

    - text, messages, pair: `input_ids` and `labels`, of one length, and of that length too the `weights` of the tokens'
      losses, unless all are 1;
    - preference, label: `prompt_ids`, `chosen_ids` and `rejected_ids`. A label leaves one of the answers empty; both
      are empty if nothing can be trained. A reward model's rows may have a `margin`, and a row a `row_weight`;
    - prompt: `prompt_ids`, and the whole `row` as JSON, for rewards that read its columns.

    A conversation that is unrolled into several training examples has those of its earlier turns in `earlier`, each
    with such columns; `columns` are those of its last one.
    """

    columns: dict[str, Any]
    ended: bool
    """Whether its answer (or each of its answers) closes with an end token."""
    findings: list[QualityIssue] = field(default_factory=list)
    earlier: list[dict[str, Any]] = field(default_factory=list)


class _Draft(NamedTuple):
    """A row before tokenisation: its texts, and how to finish it."""

    texts: list[str]
    finish: Callable[[list[Encoding]], Encoded]


Result = Encoded | DataError


class Encoder:
    """Encodes canonical examples for one tokenizer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Collection[int] = (),
        template_from: str = "the tokenizer",
    ) -> None:
        """
        Args:
            stop_ids: end tokens from the model's generation config, in addition to the tokenizer's own.
            template_from: who says what the chat template is.
        """
        if not tokenizer.is_fast:
            what = "the model has no fast tokenizer, so the tokens of an answer cannot be located"
            raise ConfigError(Problem("model.name_or_path", what, "save the model with its tokenizer.json"))
        self.tokenizer, self._template_from = tokenizer, template_from
        self.stop_ids = frozenset(stop_ids) | ({tokenizer.eos_token_id} - {None})
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._added = AddedTokens.of(self._backend)
        self._special = SpecialTokens(tokenizer, self.stop_ids)
        self._serving: Serving | None = None

    @property
    def serving(self) -> Serving:
        """How conversations are rendered.

        Raises:
            ConfigError: the tokenizer has no chat template.
        """
        if self._serving is None:
            self._serving = Serving(self.tokenizer, self._special)
        return self._serving

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer has a chat template."""
        template = self.tokenizer.chat_template
        return bool(template.get("default") if isinstance(template, dict) else template)

    def template(self) -> dict[str, str] | None:
        """How conversations were rendered and how their answers were located; None if there were none."""
        if self._serving is None:
            return None
        template, variables = self._serving.template, without_defaults(self._serving.template)[1]
        said = {"from": self._template_from, "sha256": sha256(template.encode()).hexdigest()}
        set_to = {"variables": json.dumps(variables, ensure_ascii=False)} if variables else {}
        return {**said, **set_to, "answers_by": self._serving.marks}

    def identity(self) -> list[Any]:
        """All that the tokens depend on, as JSON: the tokenizer's own bytes, special tokens and chat template."""
        template = self.tokenizer.chat_template
        kind = type(self.tokenizer).__name__
        special = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        # Some templates write today's date into the system prompt.
        dated = datetime.now().date().isoformat() if "strftime_now" in str(template) else None
        return [kind, self._backend.to_str(), special, template, dated, sorted(self.stop_ids)]

    def digests(self) -> dict[str, str]:
        """Digests of all that the tokens depend on, by what it is; the date that some templates write is not in it."""
        kind, backend, special, template, _, stop_ids = self.identity()
        parts = {"the tokenizer": [kind, backend, special], "the chat template": template, "its end tokens": stop_ids}
        return {name: sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """The tokens of each example.

        Raises:
            DataError: the first row that the chat template refuses, or that training and serving would read
                differently.
            ConfigError: conversations, and a model without a chat template.
        """
        found = self._finished(drafts := self._drafts(examples), self._tokenised(drafts))
        for result in found:
            if isinstance(result, DataError):
                raise result
        return [result for result in found if isinstance(result, Encoded)]

    def encode_all(self, examples: Iterable[Example]) -> Iterator[tuple[Example, Result]]:
        """Every example in order, with its tokens or its error.

        While one batch is tokenised, in the tokenizer's own threads, the next is read and rendered.
        """
        source = iter(examples)
        with ThreadPoolExecutor(1) as pool:
            waiting: tuple[list[Example], list[_Draft | DataError], Any] | None = None
            while True:
                batch = list(islice(source, _BATCH))
                drafts = self._drafts(batch)
                pending = pool.submit(self._tokenised, drafts) if batch else None
                if waiting is not None:
                    before, its_drafts, future = waiting
                    yield from zip(before, self._finished(its_drafts, future.result()), strict=True)
                if pending is None:
                    return
                waiting = batch, drafts, pending

    def prompt_ids(self, turns: Turns | str, row: Mapping[str, Any] | None = None) -> Ids:
        """Tokens that a model continues: a conversation with the generation prompt appended, or plain text.

        Args:
            row: the canonical row of the turns, for its tools and its variables of the chat template.

        Raises:
            DataError: the chat template refuses the conversation.
            ConfigError: a conversation, and a model without a chat template.
        """
        if isinstance(turns, str):
            return self._added.opened(list(self._batch([turns])[0].ids))
        example = Example("the prompt", "prompt", dict(row or {}))
        return list(self._batch([self.serving.prompt(example, turns, example.value.get("tools"))])[0].ids)

    # --- one batch ---------------------------------------------------------------------------------------------------

    def _drafts(self, examples: Sequence[Example]) -> list[_Draft | DataError]:
        found: list[_Draft | DataError] = []
        for example in examples:
            try:
                found.append(self._draft(example))
            except DataError as error:
                found.append(error)
        return found

    def _tokenised(self, drafts: Sequence[_Draft | DataError]) -> list[Encoding]:
        """The encodings of all texts, in order."""
        return self._batch([text for draft in drafts if isinstance(draft, _Draft) for text in draft.texts])

    def _batch(self, texts: list[str]) -> list[Encoding]:
        if not texts:
            return []
        self._backend.no_truncation()
        self._backend.no_padding()
        found: list[Encoding] = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return found

    def _finished(self, drafts: Sequence[_Draft | DataError], encodings: list[Encoding]) -> list[Result]:
        each = iter(encodings)
        found: list[Result] = []
        for draft in drafts:
            if isinstance(draft, DataError):
                found.append(draft)
                continue
            own = list(islice(each, len(draft.texts)))
            try:
                found.append(draft.finish(own))
            except DataError as error:
                found.append(error)
        return found

    # --- one way to write a row --------------------------------------------------------------------------------------

    def _draft(self, example: Example) -> _Draft:
        written = example
        if example.from_text:
            # The template writes the tokens that begin and end a row; text that has them would get second ones.
            example = example._replace(value=self._special.unwrapped(example.kind, example.value))
        value = example.value
        if example.kind == "text":
            return _Draft([self._closed(value["text"])], partial(self._text, example))
        if example.kind == "messages":
            turns = value["messages"]
            trained = [i for i, turn in enumerate(turns) if turn["role"] == "assistant" and turn.get("weight", 1)]
            return self._conversation(example, turns, trained, marked=True)
        if example.kind == "prompt":
            return self._prompt(example, written)
        sides = _sides(example)
        if isinstance(value["prompt"], str):
            texts = [
                value["prompt"],
                *(value["prompt"] + self._closed(value[side]) for side in sides or ["completion"]),
            ]
            return _Draft(
                texts, partial(self._plain_judged, example, sides) if sides else partial(self._plain, example)
            )
        if sides:
            return self._judged(example, sides)
        turns, start = value["prompt"] + value["completion"], len(value["prompt"])
        trained = [i for i in range(start, len(turns)) if turns[i]["role"] == "assistant"]
        return self._conversation(example, turns, trained, marked=False)

    def _prompt(self, example: Example, written: Example) -> _Draft:
        prompt = example.value["prompt"]
        # Rewards see the prompt as the row has it: text stays text, also where the model reads it as a turn.
        row = json.dumps(as_written(written), ensure_ascii=False, default=str)
        turns = None if isinstance(prompt, str) else prompt

        tools = example.value.get("tools")
        text = prompt if turns is None else self.serving.prompt(example, turns, tools)
        lost = left_out(turns, tools, text) if turns else []

        def finish(encodings: list[Encoding]) -> Encoded:
            ids = list(encodings[0].ids)
            found = Encoded({"prompt_ids": ids if turns else self._added.opened(ids), "row": row}, True, findings=lost)
            return self._with_findings(found, example, turns)

        return _Draft([text], finish)

    def _closed(self, text: str) -> str:
        return closed(text, self.tokenizer.eos_token or "", self._special.stops)

    def _text(self, example: Example, encodings: list[Encoding]) -> Encoded:
        ids = self._added.whole(encodings[0].ids, self.stop_ids)
        found = Encoded({"input_ids": ids, "labels": list(ids)}, ids[-1:] != [] and ids[-1] in self.stop_ids)
        return self._with_findings(found, example)

    def _conversation(self, example: Example, turns: Turns, trained: list[int], marked: bool) -> _Draft:
        tools = example.value.get("tools")
        rendered = self.serving.render(example, turns, trained, tools, marked, example.unroll)

        def finish(encodings: list[Encoding]) -> Encoded:
            each = iter(encodings)
            found = [
                self._labelled(example, turns, one, list(islice(each, len(self.serving.pieces(one)))))
                for one in rendered
            ]
            ended = rendered[-1].answers[-1].ended
            lost = [issue for one in rendered for issue in one.left_out]
            return self._with_findings(Encoded(found[-1], ended, lost, found[:-1]), example, turns)

        return _Draft([piece for one in rendered for piece in self.serving.pieces(one)], finish)

    def _labelled(
        self, example: Example, turns: Turns, rendered: Rendered, encodings: list[Encoding]
    ) -> dict[str, Any]:
        """The columns of one training example of a conversation."""
        parts = [list(encoding.ids) for encoding in encodings]
        ids = [token for part in parts for token in part]
        labels = [IGNORED] * len(ids)
        weights: list[float] | None = None
        for answer in rendered.answers:
            for start, end in self.serving.token_spans(example, rendered, parts, answer):
                labels[start:end] = ids[start:end]
                if (weight := turns[answer.turn].get("weight", 1)) != 1:
                    weights = weights or [1.0] * len(ids)
                    weights[start:end] = [weight] * (end - start)
        return {"input_ids": ids, "labels": labels, **({"weights": weights} if weights else {})}

    def _judged(self, example: Example, sides: Mapping[str, str]) -> _Draft:
        value, tools = example.value, example.value.get("tools")
        start = len(value["prompt"])
        rendered = [self.serving.render_answer(example, value["prompt"] + value[side], start, tools) for side in sides]

        def finish(encodings: list[Encoding]) -> Encoded:
            columns: dict[str, Ids] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
            each = iter(encodings)
            texts = [
                [list(encoding.ids) for encoding in islice(each, len(self.serving.pieces(side)))] for side in rendered
            ]
            # In reverse, so that the prompt tokens kept in the end are those before the chosen answer.
            for side, name, parts in reversed(list(zip(rendered, sides.values(), texts, strict=True))):
                [(first, end)] = self.serving.token_spans(example, side, parts, side.answers[0])
                ids = [token for part in parts for token in part]
                columns |= {"prompt_ids": ids[:first], name: ids[first:end]}
            lost = list(dict.fromkeys(issue for side in rendered for issue in side.left_out))
            found = Encoded(_complete(columns, sides), all(side.answers[0].ended for side in rendered), findings=lost)
            return self._with_findings(found, example, [*value["prompt"], *(t for side in sides for t in value[side])])

        return _Draft([piece for side in rendered for piece in self.serving.pieces(side)], finish)

    def _with_findings(self, found: Encoded, example: Example, turns: Turns | None = None) -> Encoded:
        if turns is not None and not example.from_text:
            found.findings += self._special.in_turns(turns, example.value.get("tools"))
            return found
        written = as_written(example)
        columns = {name: written[name] for name in _TEXT_COLUMNS[example.kind]}
        found.findings += self._special.in_columns(columns, templated=example.from_text)
        return found

    def _plain(self, example: Example, encodings: list[Encoding]) -> Encoded:
        prompt, whole = self._added.opened(encodings[0].ids), self._added.whole(encodings[1].ids, self.stop_ids)
        # Tokens may merge across the boundary: the completion starts at the first token that differs from the prompt's.
        start = common(prompt, whole)
        found = Encoded({"input_ids": whole, "labels": [IGNORED] * start + whole[start:]}, whole[-1] in self.stop_ids)
        return self._with_findings(_with_merge_finding(found, start < len(prompt)), example)

    def _plain_judged(self, example: Example, sides: Mapping[str, str], encodings: list[Encoding]) -> Encoded:
        prompt = self._added.opened(encodings[0].ids)
        wholes = [self._added.whole(encoding.ids, self.stop_ids) for encoding in encodings[1:]]
        start = min(common(prompt, whole) for whole in wholes)
        columns: dict[str, Ids] = {"prompt_ids": prompt[:start], "chosen_ids": [], "rejected_ids": []}
        columns |= {name: whole[start:] for name, whole in zip(sides.values(), wholes, strict=True)}
        ended = all(whole[-1] in self.stop_ids for whole in wholes)
        found = _with_merge_finding(Encoded(_complete(columns, sides), ended), start < len(prompt))
        return self._with_findings(found, example)


def _complete(columns: dict[str, Ids], sides: Mapping[str, str]) -> dict[str, Ids]:
    """The columns; both answers become empty if one of a preference has no token, as there is nothing to compare."""
    return (
        columns if all(columns[name] for name in sides.values()) else {**columns, "chosen_ids": [], "rejected_ids": []}
    )


def _sides(example: Example) -> dict[str, str]:
    """The judged answers of a row, each with its column; for a label the other column stays empty."""
    if example.kind == "preference":
        return {"chosen": "chosen_ids", "rejected": "rejected_ids"}
    if example.kind == "label":
        return {"completion": "chosen_ids" if example.value["label"] else "rejected_ids"}
    return {}


def _with_merge_finding(found: Encoded, merged: bool) -> Encoded:
    if merged:
        what = "ends in a token that merges with the answer (a trailing space, say): the answer starts a token earlier"
        found.findings.append(QualityIssue(BOUNDARY, "prompt", what))
    return found
