"""What it means that a format does not read a column: nothing (an id, a source), or a loss that has to be named; and
which roles of `data.roles` no row has."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftcli.core.errors import Problem
from ftcli.data.formats.columns import CONTEXT, LABELS, SOFT_LABEL, SYSTEM, TOOLS, WEIGHTS, Format, is_nothing
from ftcli.data.formats.conversations import ROLE_KEYS, Roles, key_of
from ftcli.data.formats.row_fields import CHOSEN, INPUT, INSTRUCTIONS, REJECTED


@dataclass(frozen=True)
class Meaning:
    """Words in the name of a column that say what it means, and what to do where it is not read."""

    words: frozenset[str]
    fix: str
    read_as: tuple[str, ...] = ()
    """Columns with that meaning, under which a format may read it."""
    rewards: bool = False
    """Whether a reward may need it, so that beside a prompt to sample from it is no loss."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _meaning(words: str, fix: str, read_as: tuple[str, ...] = (), *, rewards: bool = False) -> Meaning:
    return Meaning(_words(words), fix, read_as, rewards)


MEANINGS = (
    _meaning(
        "image images img imgs picture pictures photo photos video videos audio audios sound pixel",
        "only text is trained, so remove the rows that need it",
    ),
    _meaning("system sys developer persona", "", SYSTEM),
    _meaning("tool tools function functions api apis", "", TOOLS),
    _meaning("history histories", "", ("history",)),
    _meaning(
        "label labels tag kto good bad liked thumbs feedback desirable preference preferred accepted verdict "
        "rating ratings score scores reward rewards correct vote votes",
        "labels are read beside a prompt and one answer, as true or false (method=kto)",
        LABELS,
        rewards=True,
    ),
    _meaning(
        "margin margins",
        "margins are read with method=reward, by data.margin_column",
        rewards=True,
    ),
    _meaning(
        "probability probabilities prob probs confidence",
        f"a soft label of a pair is read with method=reward, in the column {SOFT_LABEL[0]}",
        SOFT_LABEL,
        rewards=True,
    ),
    _meaning("weight weights importance", "", WEIGHTS, rewards=True),
    _meaning(
        "loss mask",
        "what is trained is said by the weight of each turn, and how much by a number in the column weight",
        rewards=True,
    ),
    _meaning(
        "context contexts passage passages document documents doc docs background knowledge evidence retrieved",
        "write it into the prompt",
        (INPUT,),
        rewards=True,
    ),
    _meaning(
        "reasoning thinking thought thoughts rationale cot scratchpad explanation",
        "write it as reasoning_content of the assistant's turn, or into the answer",
        rewards=True,
    ),
    _meaning("chosen rejected", "for preference pairs both answers are needed", (*CHOSEN, *REJECTED), rewards=True),
    _meaning("instruction instructions question query input", "write it into the prompt", INSTRUCTIONS, rewards=True),
)
"""What a name may mean, the first that applies."""

# A name that ends in one of these is about the row: image_id, question_type, context_length.
_ABOUT_THE_ROW = _words(
    "id ids uuid idx index hash url uri lang language source count num len length size tokens date time timestamp "
    "version type name category split file path model"
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_CLOSE = 0.8
_KNOWN = tuple(dict.fromkeys([*CONTEXT, *LABELS, *CHOSEN, *REJECTED, INPUT, "images", "context", *WEIGHTS, "margin"]))
"""Names whose misspellings are recognised whatever the format reads."""
_GRADES = _words("score scores rating ratings reward rewards")


def remedy(fmt: Format, name: str, of_file: str, rewarded: bool = False) -> str | None:
    """What to do about a column that the format does not read; None if nothing is lost with it.

    Args:
        name: the column, as the format sees it.
        of_file: its name in the file, which `data.columns` maps.
        rewarded: whether rewards are handed all columns.
    """
    if name in fmt.reads:
        return "another column that means the same is read: keep one of the two"
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT_THE_ROW or (fmt.kind == "preference" and _GRADES.intersection(words)):
        return None
    # What a format needs is there already, under another name; only what it may have can be missing.
    free = (*fmt.optional, *(CONTEXT if fmt.kind != "text" else ()), *WEIGHTS)
    close = _close(name.lower(), (*free, *_KNOWN))
    meaning = _meaning_of(words) or (_meaning_of([close]) if close else None)
    if meaning is None or (rewarded and meaning.rewards):
        return f"did you mean {close}? (data.columns={{{close}: {of_file}}})" if meaning is None and close else None
    if close in free and close in meaning.read_as:
        return f"did you mean {close}? (data.columns={{{close}: {of_file}}})"
    ours = next((column for column in meaning.read_as if column in free), "")
    fix = f"map it with data.columns={{{ours}: {of_file}}}" if ours else meaning.fix
    return f"{fix or f'{fmt.name} rows have no place for it: use another format'}, or remove the column"


def _close(name: str, known: Sequence[str]) -> str:
    """The known name that this one misspells; "" if there is none."""
    near = difflib.get_close_matches(name, [each for each in known if abs(len(each) - len(name)) <= 1], 1, _CLOSE)
    return near[0] if near else ""


def _meaning_of(words: Sequence[str]) -> Meaning | None:
    return next((each for each in MEANINGS if each.words.intersection(words)), None)


def mapping_problems(
    fmt: Format, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], where: str
) -> Iterable[Problem]:
    """The entries of `data.columns` that the format does not read in any of the rows, whose columns are renamed."""
    read = {name for row in rows for name in fmt.read_in(row)} if columns else set()
    for ours, theirs in columns.items():
        if ours in fmt.reads and (ours in read or all(is_nothing(row.get(ours)) for row in rows)):
            continue
        what = f"data.columns maps {theirs} to {ours}, which format {fmt.name} does not read"
        if ours in fmt.reads:
            what = f"data.columns maps {theirs} to {ours}, but another column of the rows is read in its place"
        yield Problem(where, what, f"remove the entry, or map to what {fmt.name} reads: {', '.join(reads_text(fmt))}")


def reads_text(fmt: Format) -> list[str]:
    """The columns that a format reads, alternatives together, then those that may be there."""
    needed = [" or ".join(need.shown) for need in fmt.needs]
    soft = SOFT_LABEL if fmt.kind == "preference" else ()
    return [*needed, *fmt.optional, *(CONTEXT if fmt.kind != "text" else ()), *soft, WEIGHTS[0]]


def speakers(value: Any) -> set[str]:
    """The role names of all turns inside a row, or a list of rows, as written there."""
    found, left = set[str](), [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            if isinstance(name := each.get(key_of(each, ROLE_KEYS, "")), str):
                found.add(name)
            left.extend(inner for inner in each.values() if isinstance(inner, (dict, list)))
        elif isinstance(each, list):
            left.extend(inner for inner in each if isinstance(inner, (dict, list)))
    return found


def unheard(roles: Roles, heard: Collection[str]) -> list[str]:
    """The names among `roles` that no turn has; names are looked up as written, then in lower case."""
    known = {*heard, *(name.lower() for name in heard)}
    return [name for name in roles if name not in known]
