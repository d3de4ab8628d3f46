"""Answer spans: from the characters of an answer in a rendered conversation to its tokens.

Nearly always one added token opens the turn and another closes it. Then it is enough to count those tokens in the text
and in the ids, and tokenising without offsets is a fifth faster. In every other case the text is tokenised once more,
with offsets, and those decide. A test compares the two ways.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tokenizers import Encoding
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

Span = tuple[int, int]
Ids = list[int]

_KEPT_CHARACTERS = 64
"""Longest prompt ending whose ids are cached: most rows share a short one; a longer one is a row's own text."""


class Answer(NamedTuple):
    """One assistant turn in a rendered conversation: characters [start, end)."""

    turn: int
    start: int
    end: int
    ended: bool
    """Whether it closes with an end token that is trained."""
    trained: tuple[Span, ...]
    """The trained spans of its characters: all of it, or what the template marks."""


class Unserved(Exception):
    """The tokens before an answer differ from those that serving produces."""

    def __init__(self, served: Ids, trained: Ids) -> None:
        super().__init__(served, trained)
        self.served, self.trained = served, trained


class Spans:
    """Finds answers among tokens, for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        """`stops`: the end tokens, as text."""
        added = tokenizer.added_tokens_decoder
        self._added_ids = frozenset(added)
        self._backend = tokenizer.backend_tokenizer
        self._kept_ids = lru_cache(4096)(self.ids_of)
        # Counting is only safe for tokens that are matched literally and are not part of another added token.
        literal = {
            token.content: number
            for number, token in added.items()
            if not (token.normalized or token.lstrip or token.rstrip or token.single_word)
        }
        names = [token.content for token in added.values()]
        self._countable = {
            name: number for name, number in literal.items() if name and sum(name in other for other in names) == 1
        }
        self._opening = re.compile("|".join(map(re.escape, sorted(self._countable, key=len, reverse=True))) or "(?!)")
        self._closing = [stop for stop in stops if stop in self._countable]

    def of(self, text: str, ids: Ids, answer: Answer) -> list[Span]:
        """The trained token spans [start, end) of an answer.

        Args:
            ids: the tokens of the whole text.

        Raises:
            Unserved: the tokens before the answer differ from those that serving produces.
        """
        if answer.start == answer.end:
            return []
        span = self.counted(text, ids, answer)
        return self.measured(text, answer) if span is None else [span]

    def counted(self, text: str, ids: Ids, answer: Answer) -> Span | None:
        """The token span of an answer between two added tokens; None where it does not have that form.

        The opening token's index follows from how often it occurs in the text before the answer. The prompt's last
        piece, from that token to the answer, is tokenised on its own, as serving does: if the ids differ there, a token
        merged across the boundary, and the offsets have to decide.
        """
        start, end = answer.start, answer.end
        closing = next((stop for stop in self._closing if text.endswith(stop, start, end)), None)
        if closing is None or answer.trained != ((start, end),):
            return None
        window = max(0, start - _KEPT_CHARACTERS)
        opening = None
        for opening in self._opening.finditer(text, window, start):  # noqa: B007, the last one is wanted
            pass
        if opening is None:
            return None
        begin, name = opening.start(), opening.group()
        try:
            place = _nth(ids, self._countable[name], text.count(name, 0, begin) + 1, 0)
            served = self._kept_ids(text[begin:start])
            first = place + len(served)
            if ids[place:first] != served:
                return None
            return first, _nth(ids, self._countable[closing], text.count(closing, start, end), first) + 1
        except ValueError:
            return None

    def measured(self, text: str, answer: Answer) -> list[Span]:
        """The token spans of an answer by offsets.

        Raises:
            Unserved: the tokens before it differ from those that serving produces.
        """
        encoding = self._backend.encode(text, add_special_tokens=False)
        first = self._first_token(text, encoding, answer.start)
        return [
            (first if start == answer.start else _token_at(encoding, start), _tokens_until(encoding, end))
            for start, end in answer.trained
            if start < end
        ]

    def _first_token(self, text: str, encoding: Encoding, start: int) -> int:
        """The number of prompt tokens, of the text's first `start` characters, as they are served."""
        ids = encoding.ids
        section = min(_token_at(encoding, start), len(ids) - 1)
        while section >= 0 and (ids[section] not in self._added_ids or _begin(encoding, section) >= start):
            section -= 1
        # Tokenisers split at added tokens, so the tokens before this one cannot differ: only the rest is compared.
        begin = _begin(encoding, section) if section >= 0 else 0
        section = max(section, 0)
        rest = text[begin:start]
        served = self._kept_ids(rest) if len(rest) <= _KEPT_CHARACTERS else self.ids_of(rest)
        first = section + len(served)
        if ids[section:first] != served:
            raise Unserved(served, ids[section : first + 2])
        return first

    def ids_of(self, text: str) -> Ids:
        """The tokens of a text on its own."""
        ids: Ids = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def _nth(ids: Ids, wanted: int, count: int, start: int) -> int:
    """The index of the `count`-th occurrence of `wanted` from `start` on.

    Raises:
        ValueError: there are fewer.
    """
    place = start - 1
    for _ in range(count):
        place = ids.index(wanted, place + 1)
    return place


def _token_at(encoding: Encoding, character: int) -> int:
    """The first token that contains a character, or the next one if a normaliser or trimming removed it."""
    found = encoding.char_to_token(character)
    return bisect_left(encoding.offsets, (character, 0)) if found is None else int(found)


def _tokens_until(encoding: Encoding, character: int) -> int:
    """How many tokens begin before a character; a character made of several tokens counts with all of them."""
    found, count = encoding.char_to_token(character - 1), len(encoding)
    if found is None:
        return bisect_left(encoding.offsets, (character, 0))
    while found < count and _begin(encoding, found) < character:
        found += 1
    return int(found)


def _begin(encoding: Encoding, token: int) -> int:
    """The first character of a token."""
    found = encoding.token_to_chars(token)
    assert found is not None
    return int(found[0])


def common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many leading items both have in common."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:  # as nearly always
        return length
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), length)
