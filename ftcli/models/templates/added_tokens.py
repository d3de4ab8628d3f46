"""The special tokens around bare text: those that a tokenizer adds by itself, and those that the text already has.

A chat template writes its own; text without turns gets the tokenizer's. Where the text has one already, it gets no
second one: no model was trained on two BOS tokens, or generates two end tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ANY_TEXT = "a"


class AddedTokens(NamedTuple):
    """The ids that a tokenizer adds before and after a text."""

    before: list[int]
    after: list[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> AddedTokens:
        """Those of a tokenizer, by what it adds to a text of one letter."""
        plain = list(tokenizer.encode(_ANY_TEXT, add_special_tokens=False).ids)
        whole = list(tokenizer.encode(_ANY_TEXT, add_special_tokens=True).ids)
        at = next((i for i in range(len(whole)) if plain and whole[i : i + len(plain)] == plain), None)
        return cls([], []) if at is None else cls(whole[:at], whole[at + len(plain) :])

    def opened(self, ids: list[int]) -> list[int]:
        """The ids of a prompt: with the tokens before it, unless it begins with them."""
        return ids if ids[: len(self.before)] == self.before else [*self.before, *ids]

    def whole(self, ids: list[int], ends: Collection[int]) -> list[int]:
        """The ids of a whole text: also with the tokens after it, unless one is an end token, which it has already."""
        after = [] if any(token in ends for token in self.after) else self.after
        return [*self.opened(ids), *after]


def closed(text: str, end: str, ends: Iterable[str]) -> str:
    """The text with the token `end` after it; unless it has one of `ends`, after which white space is left out."""
    bare = text.rstrip()
    return bare if any(bare.endswith(each) for each in ends if each) else text + end
