"""How the tokens of one row differ between two tools, and of what kind each difference is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

KINDS: Mapping[str, str] = {
    "dropped": "only one of the two leaves the row out",
    "examples": "it becomes other training examples: another number, or others of chosen and rejected",
    "cut": "it is too long, and is cut at another place",
    "beginning": "another token, or none, before the first text",
    "end": "another token, or none, after the last text",
    "template": "the chat template or the text differs",
    "mask": "the same tokens, but others of them are trained",
    "blank": "only white space around an answer is there, or is trained, in one and not in the other",
}
"""Why rows differ, in the order in which they are told."""
_LONGEST = 3000
"""Tokens between the first difference and the last that are compared one by one; more are all one difference."""
_ALIGNED = 8
"""Equal tokens in a row from which on they are the same text; fewer may be alike by chance, beside what differs."""
_AT_END = 3
"""Tokens that may be an end: an end token and the white space around it."""


@dataclass(frozen=True)
class TokenSequence:
    """The tokens that a model is given at once, and which of them are trained."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> TokenSequence:
        """Read from plain data. The first token has nothing to be predicted from: it never counts as trained."""
        return cls(tuple(data["ids"]), (False, *map(bool, data["trained"][1:])))


@dataclass(frozen=True)
class TokenRow:
    """A row in one tool: its sequences by name, or why it is left out."""

    sequences: Mapping[str, TokenSequence]
    dropped: str = ""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> TokenRow:
        """Read from plain data: `sequences`, or `dropped`."""
        named = {name: TokenSequence.of(each) for name, each in data.get("sequences", {}).items()}
        return cls(named, "" if named else str(data.get("dropped") or "no sequence is left"))

    @property
    def num_trained(self) -> int:
        """Tokens that are trained."""
        return sum(sum(each.trained) for each in self.sequences.values())


@dataclass(frozen=True)
class Difference:
    """One way in which a row differs, and where it begins."""

    kind: str
    sequence: str = ""
    ours: int = 0
    """Where it begins in our tokens, from 0."""
    theirs: int = 0
    """And in theirs."""


Blank = Callable[[int], bool]
"""Whether a token is white space."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is compared, and how."""

    limit: int | None
    """The length that rows are cut to; None if they are not."""
    is_blank: Blank
    masks: bool = True
    """Whether to compare which tokens are trained."""


def differences(ours: TokenRow, theirs: TokenRow, rules: Rules) -> list[Difference]:
    """Every kind in which a row differs, once; none where both tools train it alike or both leave it out."""
    if bool(ours.sequences) != bool(theirs.sequences):
        return [Difference("dropped")]
    if ours.sequences.keys() != theirs.sequences.keys():
        return [Difference("examples")]
    found: dict[str, Difference] = {}
    for name, one in ours.sequences.items():
        for kind, *places in _between(one, theirs.sequences[name], rules):
            found.setdefault(kind, Difference(kind, name, *places))
    if "mask" in found:
        found.pop("blank", None)  # of a prompt that is trained, its line breaks are too
    return sorted(found.values(), key=lambda each: list(KINDS).index(each.kind))


def _between(ours: TokenSequence, theirs: TokenSequence, rules: Rules) -> Iterator[tuple[str, int, int]]:
    """Each kind of difference, and where it begins in both; the same kind may come several times."""
    start = _common(ours.ids, theirs.ids)
    longest = max(len(ours.ids), len(theirs.ids))
    if ours.ids != theirs.ids and rules.limit is not None and longest >= rules.limit and start > _AT_END:
        yield "cut", start, start
        return
    for tag, i, j, k, m in _blocks(ours.ids, theirs.ids, start):
        if tag == "equal" and rules.masks and (j - i >= _ALIGNED or j - i == len(ours.ids)):
            yield from _masked(ours, theirs, range(i, j), k - i, rules.is_blank)
        elif tag == "equal":
            continue
        elif i == 0 and k == 0 and max(j, m) <= _AT_END:
            yield "beginning", 0, 0
        elif j == len(ours.ids) and m == len(theirs.ids) and max(j - i, m - k) <= _AT_END:
            blank = all(map(rules.is_blank, (*ours.ids[i:j], *theirs.ids[k:m])))
            yield "blank" if blank else "end", i, k
        else:
            yield "template", i, k


def _masked(
    ours: TokenSequence, theirs: TokenSequence, places: range, shift: int, is_blank: Blank
) -> Iterator[tuple[str, int, int]]:
    """Where equal tokens are trained in one only; the first of a sequence never counts, wherever it is in the other."""
    differ = [i for i in places if i and i + shift and ours.trained[i] != theirs.trained[i + shift]]
    for i in differ:
        yield "blank" if is_blank(ours.ids[i]) else "mask", i, i + shift


def _common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    pairs = zip(ours, theirs, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(ours), len(theirs)))


def _blocks(ours: Sequence[int], theirs: Sequence[int], start: int) -> Iterator[tuple[str, int, int, int, int]]:
    """What is equal and what is not, as difflib tells it; compared is only what lies between the common ends."""
    tail = min(_common(ours[::-1], theirs[::-1]), len(ours) - start, len(theirs) - start)
    end, their_end = len(ours) - tail, len(theirs) - tail
    yield "equal", 0, start, 0, start
    if max(end, their_end) - start > _LONGEST:
        yield "replace", start, end, start, their_end
    else:
        matcher = SequenceMatcher(None, ours[start:end], theirs[start:their_end], autojunk=False)
        for tag, i, j, k, m in matcher.get_opcodes():
            yield tag, start + i, start + j, start + k, start + m
    yield "equal", end, len(ours), their_end, len(theirs)
