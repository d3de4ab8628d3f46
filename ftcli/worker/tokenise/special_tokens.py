"""Special tokens in the text of a row: the tokenizer reads them as control tokens, wherever they come from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ftcli.data.formats.text_form import as_text, as_turns
from ftcli.data.quality_checks import QualityIssue
from ftcli.data.row_ledger import SPECIAL

Turns = list[dict[str, Any]]

_FIRST, _TRAINED = ("text", "prompt"), ("text", "completion", "chosen", "rejected")
"""The columns that begin a row, and those that are trained to their end."""
_RENDERED = "; if the row is rendered already, set data.template=none"


class SpecialTokens:
    """Finds the special tokens of one tokenizer in text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: Collection[int]) -> None:
        """`stop_ids`: tokens that end an answer."""
        added = tokenizer.added_tokens_decoder
        # A generation config may list ids that are ordinary text or not in the tokenizer: neither ends an answer.
        self.stops = [added[i].content for i in sorted(stop_ids) if i in added]
        special = {token.content for token in added.values() if token.special} | set(self.stops)
        names = sorted(special - {""}, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._initials = frozenset(name[0] for name in names)
        self._bos = tokenizer.bos_token or ""

    def find(self, text: str) -> str | None:
        """The first special token in a text."""
        if not any(initial in text for initial in self._initials):
            return None
        found = self.pattern.search(text)
        return found.group() if found else None

    def in_turns(self, turns: Turns, tools: Any = None) -> list[QualityIssue]:
        """Quality issues for turns, and for declared tools, whose own text contains one."""
        found = [self._issue(f"turn {number}", _texts(turn), "") for number, turn in enumerate(turns, 1)]
        found.append(self._issue("tools", _texts(tools), ""))
        return [issue for issue in found if issue is not None]

    def in_columns(self, columns: Mapping[str, str], *, templated: bool = False) -> list[QualityIssue]:
        """Quality issues for columns of text that contain one, other than those that need no mention: a BOS token at
        the start of the row, an end token at the end of a text that is trained.

        Args:
            templated: whether the text is rendered through the chat template.
        """
        hint = _RENDERED if templated else ""
        found = [self._issue(name, iter((self._inner(name, text),)), hint) for name, text in columns.items()]
        return [issue for issue in found if issue is not None]

    def unwrapped(self, kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of text that is read as turns, without a BOS token at their start and an end token at their end."""
        inner = {name: self._inner(name, text) for name, text in as_text(kind, value).items() if name in _TRAINED}
        prompt = self._inner("prompt", value["prompt"][0]["content"])
        return as_turns(kind, {**as_text(kind, value), **(inner if kind != "prompt" else {}), "prompt": prompt})

    def _inner(self, name: str, text: str) -> str:
        """The text of a column without the special tokens that begin or end a row."""
        if name in _FIRST:
            text = text.removeprefix(self._bos)
        bare = text.rstrip()
        end = next((stop for stop in self.stops if name in _TRAINED and bare.endswith(stop)), None)
        return text if end is None else bare.removesuffix(end)

    def _issue(self, field: str, texts: Iterator[str], hint: str) -> QualityIssue | None:
        token = next((token for text in texts if (token := self.find(text))), None)
        what = f"contains the text {token}, which the tokenizer reads as a special token{hint}"
        return None if token is None else QualityIssue(SPECIAL, field, what)


def _texts(value: Any) -> Iterator[str]:
    """Every text of a turn or a tool, also in calls and reasoning."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield str(key)
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def end_ids(config: Any) -> list[int]:
    """The end tokens of a generation config, which has a list of them, a single one or none."""
    found = config.eos_token_id
    return found if isinstance(found, list) else [] if found is None else [found]
