"""What is suspicious in a row that can be used: told beside the run, never a reason to stop it.

Only what the format reads is looked at. A finding names its field as it stands in the row, not in the example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from ftcli.data.formats.columns import LABEL, Format, column
from ftcli.data.formats.conversations import CONTENT_KEYS, WEIGHT_KEYS, WEIGHTS, Turn, key_of
from ftcli.data.formats.ranked import RANKINGS, RankedNeed, best_and_worst
from ftcli.data.formats.registry import FORMATS
from ftcli.data.formats.row_fields import ANSWERS, SYSTEM, Fields
from ftcli.data.text_checks import garbled, placeholders

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "placeholder": "a name in double braces is left where something should have been filled in",
        "encoding": "characters that a wrong encoding leaves behind, or control characters",
        "role order": "the turns follow each other in an unusual order",
        "starts with the answer": "the assistant speaks first, so the first answer has no question",
        "unanswered": "the last turn is not the assistant's, so nothing is learned from it",
        "same answers": "chosen and rejected are the same answer",
        "empty": "something is blank that may be blank but hardly was meant to be",
        "answer repeats the prompt": "the answer is the prompt, word for word",
        "weight": "a turn asks to be trained that is not the assistant's, and never is",
    }
)
"""Every kind of finding, with one line that says what it means."""

_CALL = "call"  # what a turn of the assistant's is here that calls a tool
_SPEAKS = ("assistant", _CALL)
_SETS = ("system", "developer")
_EXCHANGE = ("user", "assistant")
_ALSO_SAID = frozenset({"reasoning_content", "thinking", "tool_calls", "function_call"})
_WORD_FOR_WORD = "is what was asked, word for word"


class Finding(NamedTuple):
    """One suspicion; `field` is the path in the row as written (`conversations[1].value`)."""

    kind: str
    field: str
    what: str


def findings(fmt: Format, row: Mapping[str, Any], example: Mapping[str, Any]) -> list[Finding]:
    """Everything suspicious in a row that became an example.

    Args:
        row: as written, or with its columns renamed; the fields are those of this row.
        example: what `convert` made of it for `fmt`.
    """
    if fmt.kind == "prompt":
        example = {"prompt": example["prompt"]}  # the other columns are for whoever scores the answer
    found: list[Finding] = []
    places = _places(_reading(fmt.name), row)
    turns_given = False
    for part, (name, value) in places.items():
        if not isinstance(value, str):
            turns_given = turns_given or part != "tools"
            for field, said in _texts(part, name, value):
                found += _about_text(field, said)
        elif not value or value.isspace():
            if part in ("asked", "system"):
                found.append(Finding("empty", name, "is blank"))
        elif "{{" in value or garbled(value):
            found += _about_text(name, value)
    if turns_given and (whole := _whole(example)):
        found += _about_turns(fmt.kind, places, whole, example)
    elif example.get("label") is not False and _repeats(example):
        found.append(Finding("answer repeats the prompt", places["answer"][0], _WORD_FOR_WORD))
    if "chosen" in example and _alike(example["chosen"], example["rejected"]):
        found.append(Finding("same answers", places["rejected"][0], "is the chosen answer too"))
    return found


def _about_text(field: str, said: str) -> Iterator[Finding]:
    if names := placeholders(said):
        yield Finding("placeholder", field, _left(names))
    if broken := garbled(said):
        control = len(broken) == 1 and broken < "\xa0"
        why = "is a control character" if control else "looks like text read in the wrong encoding"
        yield Finding("encoding", field, f"{broken!r} {why}")


def _left(names: list[str]) -> str:
    shown = ", ".join(f"{{{{{name}}}}}" for name in names[:3])
    return f"{shown} {f'and {len(names) - 3} more ' if len(names) > 3 else ''}left to be filled in"


# --- where the texts stand ------------------------------------------------------------------------------------------


_Place = tuple[str, Any]  # the path and what stands there
_Places = Mapping[str, _Place]


class _Reading(NamedTuple):
    """The columns that a format reads, by what they are to it; of several names the first with a value is read."""

    columns: tuple[tuple[str, tuple[str, ...]], ...]
    ranked: tuple[str, ...]


@cache
def _reading(name: str) -> _Reading:
    fmt = FORMATS[name]
    columns: dict[str, tuple[str, ...]] = {}
    answers: tuple[str, ...] = ()
    for need in fmt.needs:
        if isinstance(need, RankedNeed):
            answers = need.names
        elif need.shape is not LABEL:
            first = need.names[0]
            is_answer = first in ("chosen", "completion", *ANSWERS)
            columns["answer" if is_answer else "rejected" if first == "rejected" else "asked"] = need.names
    for extra in fmt.optional:
        if extra not in (*SYSTEM, *RANKINGS):
            columns["asked" if extra == "prompt" else extra] = (extra,)
    if SYSTEM[0] in fmt.optional:
        columns["system"] = SYSTEM
    return _Reading(tuple(columns.items()), answers)


def _places(reading: _Reading, row: Fields) -> dict[str, _Place]:
    """What the format reads of the row: asked, answer, rejected, system, input, history and tools, where there are."""
    found = {}
    for part, names in reading.columns:
        for name in names:
            value = row.get(name)
            if value is not None:
                found[part] = name, value
                break
    if reading.ranked and (listed := column(row, reading.ranked)):
        found["answer"], found["rejected"] = best_and_worst(row, listed)
    return found


def _texts(part: str, field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every suspicious text in turns, in exchanges or in declared tools, with its path."""
    if part in ("tools", "history"):
        yield from _all_texts(field, value)
        return
    for index, turn in enumerate(_listed(value)):
        key = "content" if turn.get("content") is not None else key_of(turn, CONTENT_KEYS, "content")
        said = turn.get(key)
        if isinstance(said, str) and _ALSO_SAID.isdisjoint(turn):
            if "{{" in said or garbled(said):  # before the path is made: nearly every text ends here
                yield f"{_path(field, value, index)}.{key}", said
            continue
        for also in (key, *sorted(_ALSO_SAID)):
            yield from _all_texts(f"{_path(field, value, index)}.{also}", turn.get(also))


def _all_texts(field: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if "{{" in value or garbled(value):
            yield field, value
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _all_texts(f"{field}[{index}]", entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _all_texts(f"{field}.{key}", entry)


def _path(field: str, value: Any, index: int) -> str:
    """The path of one turn in a column that holds a list of them, or this one."""
    return f"{field}[{index}]" if isinstance(value, list) else field


def _paths(place: _Place) -> list[str]:
    """The path of each turn in a column."""
    field, value = place
    return [_path(field, value, index) for index in range(len(_listed(value)))]


def _turn_paths(places: _Places, whole: list[Turn], answer: str) -> list[str]:
    """The path of each canonical turn, for the conversation that ends in the column `answer` ("asked" if in none)."""
    ends = _paths(places[answer]) if answer in places else []
    if len(ends) == len(whole):
        return ends  # chosen and rejected may hold the whole conversation, whatever stands beside them
    exchanges = places["history"][1] if "history" in places else []
    paths = [f"history[{index}][{part}]" for index in range(len(exchanges)) for part in (0, 1)]
    paths += [*_paths(places["asked"]), *ends] if answer != "asked" else ends
    # Only a system column goes before all that.
    return paths if len(paths) == len(whole) else [places["system"][0], *paths]


# --- what is odd about them -----------------------------------------------------------------------------------------


def _whole(example: Mapping[str, Any]) -> list[Turn]:
    """The conversation that the example is, with the good answer if there are two; [] if it is text."""
    if "messages" in example:
        return list(example["messages"])
    prompt = example.get("prompt")
    return [*prompt, *(example.get("chosen") or example.get("completion") or ())] if isinstance(prompt, list) else []


def _about_turns(kind: str, places: _Places, whole: list[Turn], example: Mapping[str, Any]) -> list[Finding]:
    roles = tuple([_CALL if turn.get("tool_calls") else turn["role"] for turn in whole])
    odd = list(_order(roles))
    if kind == "messages" and roles[-1] not in _SPEAKS:
        odd.append((len(roles) - 1, "unanswered", f"the conversation ends with the {roles[-1]}'s turn"))
    before = None
    for index, turn in enumerate(whole):
        content = turn["content"]
        if _blank(content) and roles[index] != _CALL:
            odd.append((index, "empty", f"the {roles[index]}'s turn is blank"))
        elif content == before and roles[index - 1 : index + 1] == _EXCHANGE:
            odd.append((index, "answer repeats the prompt", _WORD_FOR_WORD))
        before = content
    if example.get("label") is False:
        # A bad answer may well be that.
        odd = [one for one in odd if one[:2] != (len(whole) - 1, "answer repeats the prompt")]
    found = []
    if odd:
        paths = _turn_paths(places, whole, "answer" if "answer" in places else "asked")
        column_told = places["system"][0] if "system" in places else ""
        found = [Finding(kind, paths[index], what) for index, kind, what in odd if paths[index] != column_told]
    return found + _about_weights(places, whole, example)


@lru_cache(maxsize=4096)
def _order(roles: tuple[str, ...]) -> tuple[tuple[int, str, str], ...]:
    """Index, kind and text of each turn that stands where it usually does not."""
    odd = []
    opened = False
    for index, role in enumerate(roles):
        before = roles[index - 1] if index else ""
        what = ""
        if role in _SETS:
            if opened or role in roles[:index]:
                what = f"the {role} text is not first"
        elif role == "tool" and before not in ("tool", _CALL):
            what = "a tool answers and no call precedes"
        elif role == before == "user":
            what = "the user speaks twice in a row"
        elif role == "assistant" and before in _SPEAKS:
            what = "the assistant speaks twice in a row" if before == role else "a call goes unanswered"
        if what:
            odd.append((index, "role order", what))
        if role in _SPEAKS and not opened:
            odd.append((index, "starts with the answer", "the assistant speaks first"))
        opened = opened or role not in _SETS
    return tuple(odd)


def _about_weights(places: _Places, whole: list[Turn], example: Mapping[str, Any]) -> list[Finding]:
    """Turns that ask to be trained and are somebody else's than the assistant's."""
    asking: list[tuple[str, str]] = []
    for part in ("asked", "answer", "rejected"):
        field, value = places.get(part, ("", ""))
        if isinstance(value, str):
            continue
        for index, turn in enumerate(_listed(value)):
            if not WEIGHTS.isdisjoint(turn):
                asking += [(_path(field, value, index), key) for key in WEIGHT_KEYS if turn.get(key) in (1, True)]
    if not asking:
        return []
    roles = dict(zip(_turn_paths(places, whole, "answer" if "answer" in places else "asked"), whole, strict=True))
    if "rejected" in places:
        other = [*example["prompt"], *example["rejected"]]
        roles |= zip(_turn_paths(places, other, "rejected"), other, strict=True)
    return [
        Finding("weight", f"{path}.{key}", f"asks to train the {roles[path]['role']}'s turn, which is never trained")
        for path, key in asking
        if path in roles and roles[path]["role"] != "assistant"
    ]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _blank(value: Any) -> bool:
    return isinstance(value, str) and (not value or value.isspace())


def _repeats(example: Mapping[str, Any]) -> bool:
    """Whether question and answer, each written as one text, are the same."""
    if "messages" in example:
        return bool(example["messages"][-2:-1] and _same(*example["messages"][-2:]))
    asked, given = example.get("prompt"), example.get("chosen") or example.get("completion")
    if isinstance(asked, list):
        return given is not None and _same(asked[-1], given[0])
    return asked is not None and asked == given


def _same(question: Turn, answer: Turn) -> bool:
    return bool(question["content"] == answer["content"])


def _alike(chosen: Any, rejected: Any) -> bool:
    if isinstance(chosen, str):
        return bool(chosen.strip() == rejected.strip())
    return len(chosen) == len(rejected) and all(
        one["content"].strip() == other["content"].strip() and one.get("tool_calls") == other.get("tool_calls")
        for one, other in zip(chosen, rejected, strict=True)
    )
