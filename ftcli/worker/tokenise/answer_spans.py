"""Where an answer stands among the tokens of its conversation, known by its characters.

Nearly always an added token opens the turn and another one closes it. Then counting those in the text and in the tokens
is enough, and a tokenizer that need not tell offsets is a fifth faster. Wherever anything else is the case the text is
tokenised once more, with offsets, and those decide. A test compares the two.
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
"""Prompts end in the same few tokens, whose ids are kept; a longer end is a row's own text, and none of another's."""


class Answer(NamedTuple):
    """One assistant turn in a rendered conversation: characters [start, end)."""

    turn: int
    start: int
    end: int
    ended: bool
    """Whether it closes with an end token that is trained."""
    trained: tuple[Span, ...]
    """The characters of it that are trained: all, or those that the template marks."""


class Unserved(Exception):
    """The tokens before an answer are not those that serving gives."""

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
        # Counting holds for tokens that are matched literally and are no part of one another.
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
        """The tokens [start, end) of an answer that are trained.

        Args:
            ids: the tokens of the whole text.

        Raises:
            Unserved: those before the answer are not what serving gives.
        """
        if answer.start == answer.end:
            return []
        found = self.counted(text, ids, answer)
        return self.measured(text, answer) if found is None else [found]

    def counted(self, text: str, ids: Ids, answer: Answer) -> Span | None:
        """The span of an answer between two added tokens; None where that is not what it is."""
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
        """The spans of an answer by the offsets of its tokens.

        Raises:
            Unserved: the tokens before it are not what serving gives.
        """
        encoding = self._backend.encode(text, add_special_tokens=False)
        first = self._first_token(text, encoding, answer.start)
        return [
            (first if start == answer.start else _token_at(encoding, start), _tokens_until(encoding, end))
            for start, end in answer.trained
            if start < end
        ]

    def _first_token(self, text: str, encoding: Encoding, start: int) -> int:
        """How many tokens the prompt has, the text's first `start` characters, as it is served."""
        ids = encoding.ids
        section = min(_token_at(encoding, start), len(ids) - 1)
        while section >= 0 and (ids[section] not in self._added_ids or _begin(encoding, section) >= start):
            section -= 1
        # An added token parts what stands before it from what stands behind: the rest of the prompt is the same.
        begin = _begin(encoding, section) if section >= 0 else 0
        section = max(section, 0)
        rest = text[begin:start]
        served = self._kept_ids(rest) if len(rest) <= _KEPT_CHARACTERS else self.ids_of(rest)
        first = section + len(served)
        if ids[section:first] != served:
            raise Unserved(served, ids[section : first + 2])
        return first

    def ids_of(self, text: str) -> Ids:
        """The tokens of a text by itself."""
        ids: Ids = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def _nth(ids: Ids, wanted: int, count: int, start: int) -> int:
    """The place of the `count`-th `wanted` from `start` on.

    Raises:
        ValueError: there are fewer.
    """
    place = start - 1
    for _ in range(count):
        place = ids.index(wanted, place + 1)
    return place


def _token_at(encoding: Encoding, character: int) -> int:
    """The first token that holds a character, or the next where a normaliser or a trimming has left it out."""
    found = encoding.char_to_token(character)
    return bisect_left(encoding.offsets, (character, 0)) if found is None else int(found)


def _tokens_until(encoding: Encoding, character: int) -> int:
    """How many tokens begin before a character: one that is of several tokens counts with all of them."""
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
